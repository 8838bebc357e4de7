use super::*;

fn text(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("status.json")).unwrap()
}

#[test]
fn a_line_is_spelled_as_pythons_json() {
    let folder = tempfile::tempdir().unwrap();
    let mut status = StatusFile::open(folder.path(), Action::Inference).unwrap();
    status.warning("é \"q\" \\ 😀\n").unwrap();
    let line = text(folder.path());
    let message =
        r#""status": "RUNNING", "verbosity": "WARNING", "message": "\u00e9 \"q\" \\ \ud83d\ude00\n"}"#;
    assert!(line.ends_with(&format!("{message}\n")), "{line}");
    assert!(line.starts_with("{\"date\": \""), "{line}");
}

#[test]
fn numbers_are_spelled_as_python_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut status = StatusFile::open(folder.path(), Action::Train).unwrap();
    status.validated(1e-5, Some(1.0)).unwrap();
    status.validated(f64::NAN, None).unwrap();
    let text = text(folder.path());
    assert!(text.contains("\"kpi\": {\"val_loss\": 1e-05, \"ACC_all\": 1.0}}"), "{text}");
    assert!(text.contains("\"kpi\": {\"val_loss\": NaN}}"), "{text}");
}

#[test]
fn a_run_that_just_stops_leaves_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let mut status = StatusFile::open(folder.path(), Action::Train).unwrap();
    status.starting().unwrap();
    drop(status);
    let text = text(folder.path());
    assert!(text.lines().last().unwrap().contains("\"status\": \"FAILURE\""), "{text}");
    assert_eq!(text.lines().count(), 2);
}

#[test]
fn an_interrupt_and_a_failure_end_the_file_once() {
    let folder = tempfile::tempdir().unwrap();
    StatusFile::open(folder.path(), Action::Export).unwrap().interrupted().unwrap();
    StatusFile::open(folder.path(), Action::Export).unwrap().fail(Failure::FileSystem, "denied").unwrap();
    let text = text(folder.path());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("User/System interruption: Export was interrupted"), "{text}");
    assert!(lines[1].contains("File system error: denied"), "{text}");
}

#[test]
fn frozen_modules_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut status = StatusFile::open(folder.path(), Action::Train).unwrap();
    status.frozen(&["encoder.stages.0".to_owned()], &["not.there".to_owned()]).unwrap();
    let text = text(folder.path());
    assert!(text.contains(
        r#""status": "RUNNING", "verbosity": "INFO", "message": "Freezed module ['encoder.stages.0']"}"#
    ));
    let skipped = r#""status": "SKIPPED", "verbosity": "WARNING", "message": "module ['not.there'] not found. Skipped freezing"}"#;
    assert!(text.contains(skipped), "{text}");
}

#[test]
fn a_silent_writer_writes_nothing() {
    let mut status = StatusFile::silent(Action::Train);
    status.starting().unwrap();
    status.succeed().unwrap();
}

#[test]
fn dates_are_not_padded() {
    for (civil, date, time) in [
        (jiff::civil::date(2026, 1, 2).at(3, 4, 5, 0), "1/2/2026", "3:4:5"),
        (jiff::civil::date(2026, 11, 23).at(17, 2, 0, 0), "11/23/2026", "17:2:0"),
        (jiff::civil::date(2027, 12, 31).at(0, 0, 59, 0), "12/31/2027", "0:0:59"),
    ] {
        let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).unwrap();
        assert_eq!(date_time(&zoned), (date.to_owned(), time.to_owned()));
    }
}
