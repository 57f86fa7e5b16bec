//! Reading what a process says of itself in Prometheus's text format.

/// The sum of a metric over all its labels. 0 if there is none.
pub(crate) fn sum(text: &str, metric: &str) -> u64 {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            rest.starts_with(['{', ' ']).then_some(rest)
        })
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_confused_with_others() {
        let text = "# TYPE calls summary\ncalls{a=\"x y\"} 3\ncalls{a=\"b\"} 4\ncalls_total 100\n";
        assert_eq!(sum(text, "calls"), 7);
        assert_eq!(sum(text, "nothing"), 0);
    }
}
