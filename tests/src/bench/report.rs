//! The table that a measurement prints: figure, what it is compared with, target, verdict. Knows nothing of what was measured.

/// What a figure, or its ratio to another, should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Target::AtMost(most) => value <= most,
            Target::AtLeast(least) => value >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Target::AtMost(most) => format!("<= {}", short(most)),
            Target::AtLeast(least) => format!(">= {}", short(least)),
        }
    }
}

struct Row {
    what: String,
    figure: String,
    compared: String,
    target: String,
    verdict: &'static str,
}

/// Rows in the order in which they were added.
pub struct Report {
    title: String,
    rows: Vec<Row>,
}

impl Report {
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Report { title: title.into(), rows: Vec::new() }
    }

    /// A figure that others are compared with, or that has no target.
    pub fn plain(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        let (what, figure) = (what.into(), figure.into());
        self.rows.push(Row { what, figure, compared: String::new(), target: String::new(), verdict: "" });
    }

    /// A figure with its ratio (or any other number that the target is about) to `of`.
    pub fn judged(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        compared: (f64, &str),
        target: Option<Target>,
    ) {
        let (value, of) = compared;
        self.rows.push(Row {
            what: what.into(),
            figure: figure.into(),
            compared: format!("{} {of}", short(value)),
            target: target.map(Target::text).unwrap_or_default(),
            verdict: match target.map(|target| target.met(value)) {
                None => "",
                Some(true) => "met",
                Some(false) => "MISSED",
            },
        });
    }

    /// Prints all rows.
    pub fn print(&self) {
        println!("\n{}", self.title);
        let width = |cell: fn(&Row) -> &str| self.rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0);
        let (what, figure) = (width(|row| &row.what), width(|row| &row.figure));
        let (compared, target) = (width(|row| &row.compared), width(|row| &row.target));
        for row in &self.rows {
            let line = format!(
                "  {:<what$}  {:>figure$}  {:<compared$}  {:<target$}  {}",
                row.what, row.figure, row.compared, row.target, row.verdict
            );
            println!("{}", line.trim_end());
        }
    }
}

/// Three digits that matter.
fn short(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle of the values; of an even number of them, the upper middle. 0 for none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn targets_have_a_direction() {
        assert!(Target::AtMost(2.0).met(2.0) && !Target::AtMost(2.0).met(2.1));
        assert!(Target::AtLeast(2.0).met(2.0) && !Target::AtLeast(2.0).met(1.9));
    }
}
