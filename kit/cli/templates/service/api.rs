//! What __name__ offers to others. When a method is added here, `kit generate service __name__` adds what it needs.

/// The service __name__.
#[kit::service__settings__]
pub trait __Trait__ {
    // async fn create(&self, ctx: Context, email: String) -> Result<(), Error>;
}
