//! Makes a call again that failed, if that cannot do harm.

mod budget;

pub use budget::{Budget, BudgetConfig, Withdrawal};
