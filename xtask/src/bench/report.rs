//! What was measured, row by row, and the table that is made of it.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What one case adds to the bare service.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) inner: String,
    pub(super) allocations: f64,
    bytes: f64,
    pub(super) instructions: Option<f64>,
    /// As the program that measures it prints it.
    time: Value,
}

impl Row {
    pub(super) fn is(&self, group: &str, name: &str) -> bool {
        self.group == group && self.name == name
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "group": self.group,
            "name": self.name,
            "inner": self.inner,
            "allocations": self.allocations,
            "bytes": self.bytes,
            "instructions": self.instructions,
            "ns": self.time["ns"],
            "added_ns": self.time["added_ns"],
            "two_threads": self.time["two_threads"],
        })
    }

    fn added(&self, which: &str) -> f64 {
        self.time["added_ns"][which].as_f64().unwrap_or(f64::NAN)
    }
}

/// The rows, with allocations only.
pub(super) fn rows(allocations: &Value) -> Result<Vec<Row>> {
    let row = |value: &Value| {
        let text = |name: &str| Some(value[name].as_str()?.to_owned());
        Some(Row {
            group: text("group")?,
            name: text("name")?,
            inner: text("inner")?,
            allocations: value["allocations"].as_f64()?,
            bytes: value["bytes"].as_f64()?,
            instructions: None,
            time: Value::Null,
        })
    };
    let rows = allocations["rows"].as_array();
    let rows = rows.and_then(|rows| rows.iter().map(row).collect());
    rows.context("the allocations cannot be read")
}

/// Adds what the calls of each row took.
pub(super) fn add_time(rows: &mut [Row], time: &Value) -> Result<()> {
    let times = time["rows"]
        .as_array()
        .context("the times cannot be read")?;
    for row in rows {
        let same = |value: &&Value| {
            value["group"] == *row.group
                && value["name"] == *row.name
                && value["inner"] == *row.inner
        };
        let found = times.iter().find(same);
        row.time = found
            .with_context(|| format!("{}, {} was not measured", row.group, row.name))?
            .clone();
    }
    Ok(())
}

/// One line for each case, as Markdown. `x` is how many times the kit's nanoseconds that is.
pub(super) fn table(rows: &[Row], time: &Value) -> String {
    let mut text = String::from(
        "| layer | whose | ns added [min-max] | x | allocations | instructions | pending: ns [min-max] | x | allocations | instructions | two threads / one |\n\
         |-|-|-|-|-|-|-|-|-|-|-|\n",
    );
    for row in rows.iter().filter(|row| row.inner == "at_once") {
        let pending = rows
            .iter()
            .find(|other| other.is(&row.group, &row.name) && other.inner == "pending_once");
        let _ = write!(text, "| {} | {} |", row.group, row.name);
        for row in [Some(row), pending].into_iter().flatten() {
            cells(&mut text, row, rows);
        }
        let two = row.time["two_threads"]["times_one"].as_f64();
        let _ = writeln!(
            text,
            " {} |",
            two.map_or("-".to_owned(), |two| format!("{two:.2}"))
        );
    }
    let updates = &time["updates"];
    let _ = write!(
        text,
        "\n| a call, of {} endpoints, us | the first after one was replaced | after the same list was told again | any other |\n|-|-|-|-|\n",
        updates["endpoints"],
    );
    for row in updates["picks"].as_array().into_iter().flatten() {
        let micros = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.1} |",
            row["pick"].as_str().unwrap_or_default(),
            micros("one_replaced_us"),
            micros("same_again_us"),
            micros("untold_us"),
        );
    }
    text
}

/// What a request over HTTP/1.1 costs each client: with how many nanoseconds on a core, kernel included, and
/// instructions of its own, kernel not included.
pub(super) fn http_table(clients: &[Value]) -> String {
    let mut text = String::from(
        "| client of a real HTTP/1.1 server | ns [min-max] | instructions | to hyper-util's |\n|-|-|-|-|\n",
    );
    let util = clients
        .iter()
        .find(|client| client["name"] == "hyper-util pooled client");
    let util = util.and_then(|util| util["instructions"].as_f64());
    for client in clients {
        let ns = |which: &str| client["ns"][which].as_f64().unwrap_or(f64::NAN);
        let name = client["name"].as_str().unwrap_or_default();
        let _ = write!(
            text,
            "| {name} | {:.0} [{:.0}-{:.0}] |",
            ns("median"),
            ns("min"),
            ns("max")
        );
        let instructions = client["instructions"].as_f64();
        let ratio = instructions.zip(util).map(|(its, util)| its / util);
        let _ = writeln!(
            text,
            " {} | {} |",
            instructions.map_or("-".to_owned(), |n| format!("{n:.0}")),
            ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
        );
    }
    text
}

fn cells(text: &mut String, row: &Row, rows: &[Row]) {
    let kit = rows
        .iter()
        .find(|other| other.is(&row.group, "kit") && other.inner == row.inner);
    let median = row.added("median");
    let times = kit.map_or_else(
        || "-".to_owned(),
        |kit| format!("{:.1}", median / kit.added("median")),
    );
    let _ = write!(
        text,
        " {median:.0} [{:.0}-{:.0}] | {times} | {} | {} |",
        row.added("min"),
        row.added("max"),
        rounded(row.allocations),
        row.instructions
            .map_or("-".to_owned(), |n| format!("{n:.0}")),
    );
}

/// Without digits where there are none.
fn rounded(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_both_kinds_of_inner_service_and_the_ratio_to_the_kit() {
        let allocations = |name: &str, inner: &str, allocations: f64| json!({ "group": "deadline", "name": name, "inner": inner, "allocations": allocations, "bytes": 0.0 });
        let time = |name: &str, inner: &str, ns: f64| {
            let added = json!({ "median": ns, "min": ns - 1.0, "max": ns + 1.0 });
            json!({ "group": "deadline", "name": name, "inner": inner, "added_ns": added, "two_threads": { "times_one": 1.5 } })
        };
        let mut counted = Vec::new();
        let mut timed = Vec::new();
        for (name, ns) in [("kit", 10.0), ("tower Timeout", 25.0)] {
            for (inner, more) in [("at_once", 0.0), ("pending_once", 100.0)] {
                counted.push(allocations(name, inner, more / 100.0));
                timed.push(time(name, inner, ns + more));
            }
        }
        let mut rows = rows(&json!({ "rows": counted })).unwrap();
        let time = json!({ "rows": timed, "updates": { "endpoints": 10 } });
        add_time(&mut rows, &time).unwrap();
        let table = table(&rows, &time);
        let line = "| deadline | tower Timeout | 25 [24-26] | 2.5 | 0 | - | 125 [124-126] | 1.1 | 1 | - | 1.50 |";
        assert!(table.contains(line), "{table}");
    }
}
