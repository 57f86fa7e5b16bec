    __signature__ {
        self.inner.__method__(__arguments__).await
    }
