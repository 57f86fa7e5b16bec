//! A part of a whole.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number from 0 to 1: a share, a rate of success, a probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(f64);

impl Ratio {
    /// Nothing of it.
    pub const ZERO: Self = Self(0.0);
    /// All of it.
    pub const ONE: Self = Self(1.0);

    /// `ratio`, or `None` if it is not from 0 to 1.
    pub const fn new(ratio: f64) -> Option<Self> {
        // NaN is in no range.
        if ratio >= 0.0 && ratio <= 1.0 {
            Some(Self(ratio))
        } else {
            None
        }
    }

    /// The number, from 0 to 1.
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// A number that is not from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not from 0 to 1")]
pub struct InvalidRatio(f64);

impl TryFrom<f64> for Ratio {
    type Error = InvalidRatio;

    fn try_from(ratio: f64) -> Result<Self, InvalidRatio> {
        Self::new(ratio).ok_or(InvalidRatio(ratio))
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> Self {
        ratio.0
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_from_0_to_1() {
        for good in [0.0, 0.2, 1.0] {
            assert_eq!(Ratio::new(good).unwrap().get(), good);
        }
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::new(bad), None, "{bad}");
        }
        assert_eq!(serde_json::from_str::<Ratio>("0.25").unwrap().get(), 0.25);
        let error = serde_json::from_str::<Ratio>("2").unwrap_err().to_string();
        assert!(error.contains("2 is not from 0 to 1"), "{error}");
    }
}
