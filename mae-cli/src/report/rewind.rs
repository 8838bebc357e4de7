//! Logs of a training that goes on from an earlier state: what was logged after it is removed, because it will be logged
//! again.

/// The lines of a `status.json` without those of epochs from `epoch` on and of optimizer steps from `step` on.
///
/// An epoch has up to three lines: its validation, its progress, and its training loss. Of these only the second says
/// which epoch it is.
pub(super) fn lines_before(text: &str, epoch: u64, step: u64) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let parsed: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
    let message = |index: usize| parsed.get(index).and_then(|line| line["message"].as_str()).unwrap_or("");
    let is_progress = |index: usize| message(index) == "Training loop in progress";
    let is_later = |index: usize| {
        is_progress(index) && parsed[index]["epoch"].as_u64().is_some_and(|found| found >= epoch)
    };
    let is_dropped = |index: usize| match message(index) {
        "Training loop in progress" => is_later(index),
        "Train metrics generated." => index > 0 && is_later(index - 1),
        // A run that was killed before the epoch's own line leaves one alone.
        "Eval metrics skipped." => !is_progress(index + 1) || is_later(index + 1),
        text => left_out_step(text).is_some_and(|found| found >= step),
    };
    let kept = lines.iter().enumerate().filter(|(index, _)| !is_dropped(*index));
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// The step that a warning about a step that was left out names.
fn left_out_step(message: &str) -> Option<u64> {
    let (number, _) = message.strip_prefix("step ")?.split_once(" was left out")?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str, epoch: Option<u64>) -> String {
        match epoch {
            Some(epoch) => format!("{{\"epoch\": {epoch}, \"message\": \"{message}\"}}\n"),
            None => format!("{{\"message\": \"{message}\"}}\n"),
        }
    }

    fn epoch(epoch: u64) -> String {
        [
            line("Eval metrics skipped.", None),
            line("Training loop in progress", Some(epoch)),
            line("Train metrics generated.", None),
        ]
        .concat()
    }

    #[test]
    fn later_epochs_go_and_the_rest_stays() {
        let start = line("Starting Training Loop.", None);
        let warning = |step: u64| line(&format!("step {step} was left out: ..."), None);
        let killed = line("Eval metrics skipped.", None);
        let text = [start.clone(), epoch(0), warning(7), epoch(1), warning(12), killed].concat();
        assert_eq!(lines_before(&text, 1, 10), [start.clone(), epoch(0), warning(7)].concat());
        assert_eq!(
            lines_before(&text, 2, 20),
            [start.clone(), epoch(0), warning(7), epoch(1), warning(12)].concat()
        );
        assert_eq!(lines_before(&text, 0, 0), start);
    }

    #[test]
    fn unreadable_lines_stay() {
        let text = "not json\n".to_owned() + &epoch(3);
        assert_eq!(lines_before(&text, 2, 0), "not json\n");
    }
}
