    __signature__ {
        logged("__method__", self.inner.__method__(__arguments__)).await
    }
