    __signature__ {
        // Here goes what `__method__` does. Until then it says that it does nothing.
        let _ = __unused__;
        Err(Error::new(Code::Unimplemented, "__method__ is not written yet"))
    }
