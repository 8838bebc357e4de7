//! The findings, as the user reads them.

use std::fmt::Write as _;

use crate::error::Error;

/// Lines of findings, and the worst of them.
#[derive(Debug, Default)]
pub(super) struct Report {
    text: String,
    warnings: usize,
    problems: usize,
    code: u8,
}

impl Report {
    /// A heading.
    pub(super) fn section(&mut self, title: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{title}");
    }

    /// Something that is as it should be, or plain information.
    pub(super) fn note(&mut self, what: &str, text: impl AsRef<str>) {
        self.line("  ", what, text.as_ref());
    }

    /// Something that works and may surprise.
    pub(super) fn warn(&mut self, what: &str, text: impl AsRef<str>) {
        self.warnings += 1;
        self.line("! ", what, text.as_ref());
    }

    /// Something that a run would fail on.
    pub(super) fn problem(&mut self, what: &str, text: impl AsRef<str>, code: u8) {
        self.problems += 1;
        if self.code == 0 {
            self.code = code;
        }
        self.line("x ", what, text.as_ref());
    }

    /// The same, from the error that the run would end with.
    pub(super) fn error(&mut self, what: &str, error: &Error) {
        self.problem(what, error.to_string(), error.exit_code());
    }

    /// The whole text with its verdict, and the exit code.
    pub(super) fn finish(mut self) -> (String, u8) {
        let count = |number: usize, what: &str| match number {
            1 => format!("1 {what}"),
            _ => format!("{number} {what}s"),
        };
        let verdict = match (self.problems, self.warnings) {
            (0, 0) => "Nothing is in the way.".to_owned(),
            (0, warnings) => format!("Nothing is in the way; {} (marked !).", count(warnings, "remark")),
            (problems, 0) => format!("{} (marked x).", count(problems, "problem")),
            (problems, warnings) => {
                format!(
                    "{} (marked x), {} (marked !).",
                    count(problems, "problem"),
                    count(warnings, "remark")
                )
            }
        };
        let _ = write!(self.text, "\n{verdict}");
        (self.text, self.code)
    }

    /// Further lines of the text stand below its first.
    fn line(&mut self, mark: &str, what: &str, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let what = if index == 0 { what } else { "" };
            let mark = if index == 0 { mark } else { "  " };
            let _ = writeln!(self.text, "{mark}{what:<12} {}", line.trim_start());
        }
    }
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = count as f64 / 1e3;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(
            [999, 1_500, 14_900_000, 2_000_000_000_000].map(bytes),
            ["1.0 kB", "1.5 kB", "15 MB", "2.0 TB"]
        );
    }

    #[test]
    fn the_first_problem_gives_the_code() {
        let mut report = Report::default();
        report.section("machine");
        report.note("disk", "fine");
        report.warn("memory", "little");
        report.problem("data", "missing\n  help: look", 3);
        report.problem("model", "wrong", 1);
        let (text, code) = report.finish();
        assert_eq!(code, 3);
        assert_eq!(
            text,
            "machine\n  disk         fine\n! memory       little\nx data         missing\n               help: look\n\
             x model        wrong\n\n2 problems (marked x), 1 remark (marked !)."
        );
    }
}
