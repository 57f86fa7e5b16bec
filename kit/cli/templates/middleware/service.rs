//! `__name__`, around the methods of __service__: it sees their arguments and results.

__uses__

/// Does its part, then calls the handler inside of it.
#[derive(Clone, Debug)]
pub(crate) struct __Middleware__<T> {
    /// What it stands around.
    pub(crate) inner: T,
}

// What it does goes before and after the calls of `inner`.
impl<T: __Trait__> __Trait__ for __Middleware__<T> {
__methods__}
