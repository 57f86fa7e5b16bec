    __signature__ {
        // Here goes what `__method__` does. Until then it says that it does nothing; its stream may be of any type.
        let _ = __unused__;
        let unwritten = Error::new(Code::Unimplemented, "__method__ is not written yet");
        Err::<std::pin::Pin<Box<dyn kit::Stream<Item = _> + Send>>, _>(unwritten)
    }
