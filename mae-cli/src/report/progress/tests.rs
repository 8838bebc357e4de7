use super::*;

/// A writer that can be read afterwards.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn a_short_task_without_a_terminal_says_only_how_it_ended() {
    let sink = Sink::default();
    let mut task = Progress::lines(sink.clone()).bytes("indexing images.tar.gz", 1_000_000);
    task.at(500_000);
    task.at(1_000_000);
    task.finish("indexed images.tar.gz: 8000 images");
    assert_eq!(sink.text(), "indexed images.tar.gz: 8000 images\n");
}

#[test]
fn a_task_reports_amount_rate_and_what_is_left() {
    let mut task = Progress::silent().bytes("indexing", 10_000_000);
    task.done = 5_000_000;
    assert_eq!(task.text(Duration::from_secs(5)), "indexing: 5.0 MB of 10.0 MB, 1.0 MB/s, ETA 0:00:05");
    let mut task = Progress::silent().items("evaluating", 400);
    task.done = 100;
    assert_eq!(task.text(Duration::from_secs(10)), "evaluating: 100 img of 400 img, 10 img/s, ETA 0:00:30");
}

#[test]
fn an_epoch_ends_with_one_line() {
    let sink = Sink::default();
    let mut training = Progress::lines(sink.clone()).training(3, Some(2), 2);
    for _ in 0..2 {
        training.step(&Step { loss: 0.5, lr: 1e-4, images: 4, waited: Duration::ZERO, slowest: "decoding" });
    }
    assert_eq!(training.rates().stall, 0.0);
    training.end_epoch("train_loss 0.5000");
    let text = sink.text();
    assert!(text.starts_with("epoch 2/3  train_loss 0.5000  "), "{text}");
    assert!(
        text.contains(" img/s  stall 0% (model)  ") && text.ends_with('\n') && text.contains("ETA 0:00:0"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(training.images, 0, "rates start again with the next epoch");
}

#[test]
fn a_step_is_told_with_loss_rate_and_epoch() {
    let mut training = Progress::silent().training(2, Some(10), 0);
    let step = Step { loss: 1.25, lr: 2e-4, images: 8, waited: Duration::ZERO, slowest: "decoding" };
    training.step(&step);
    assert_eq!(training.epoch_name(), "epoch 1/2");
    assert_eq!(training.batch_in_epoch(), 1);
    assert!(training.text(&step).starts_with("loss 1.2500  lr 2.00e-4  "), "{}", training.text(&step));
    for _ in 0..10 {
        training.step(&step);
    }
    assert_eq!((training.epoch_name(), training.batch_in_epoch()), ("epoch 2/2".to_owned(), 1));
}

/// Of a first epoch that is streamed, nobody knows the end.
#[test]
fn batches_may_be_counted_after_the_first_epoch() {
    let sink = Sink::default();
    let mut training = Progress::lines(sink.clone()).training(3, None, 0);
    let step = Step { loss: 1.25, lr: 2e-4, images: 8, waited: Duration::ZERO, slowest: "decoding" };
    for batch in 1..=4 {
        training.step(&step);
        assert_eq!((training.epoch_name(), training.batch_in_epoch()), ("epoch 1/3".to_owned(), batch));
        assert!(training.text(&step).ends_with("ETA ?"), "{}", training.text(&step));
    }
    // Once the archive is unpacked, the end is known.
    training.set_batches_per_epoch(4);
    assert!(training.text(&step).ends_with("ETA 0:00:00"), "{}", training.text(&step));
    training.end_epoch("train_loss 0.5000");
    assert!(sink.text().starts_with("epoch 1/3  train_loss 0.5000  "), "{}", sink.text());
    training.step(&step);
    assert_eq!((training.epoch_name(), training.batch_in_epoch()), ("epoch 2/3".to_owned(), 1));
}

#[test]
fn a_stall_names_what_the_loader_is_slow_at() {
    let mut training = Progress::silent().training(1, Some(10), 0);
    let step = |waited| Step { loss: 1.0, lr: 1e-4, images: 8, waited, slowest: "decoding" };
    training.step(&step(Duration::from_secs(3600)));
    let text = training.text(&step(Duration::ZERO));
    assert!(text.contains("  stall 100% (decoding)  "), "{text}");
}

#[test]
fn clocks_stay_readable() {
    assert_eq!(clock(3661.4), "1:01:01");
    assert_eq!(clock(f64::INFINITY), "?");
}

#[test]
fn lines_are_also_in_the_log_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("j1")).unwrap();
    let root = folder.path().display().to_string();
    let env = |job: &'static str| {
        let root = root.clone();
        move |name: &str| match name {
            "TAO_MICROSERVICES_TTY_LOG" => Some(root.clone()),
            "JOB_ID" => Some(job.to_owned()),
            _ => None,
        }
    };
    Progress::silent().logged(&env("j1")).say("one line");
    Progress::silent().logged(&env("j2")).say("no folder, no log");
    Progress::silent().logged(&|_| None).say("no job");
    let log = std::fs::read_to_string(folder.path().join("j1/microservices_log.txt")).unwrap();
    assert_eq!(log, "one line\n");
    assert!(!folder.path().join("j2").exists());
}
