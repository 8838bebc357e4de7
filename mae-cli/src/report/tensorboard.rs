//! TensorBoard event files: TFRecord frames around protobuf `Event` messages.
//!
//! Format: `tensorflow/core/lib/io/record_writer` (length, masked CRC-32C of it, data, masked CRC-32C of that) and
//! `tensorflow/core/util/event.proto`, of which only scalars and pictures are written.

use super::{Error, Result};
use prost::Message;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3 is RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// Writes one event file. Each event is flushed, so that TensorBoard shows it at once.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Creates `<results_dir>/lightning_logs/version_<version>/events.out.tfevents.<time>.<host>.<pid>.0` and, beside it,
    /// the `hparams.yaml` that Lightning leaves. Upstream's trainings write version 1, its other actions version 0.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn create(results_dir: &Path, version: u32) -> Result<Self> {
        let folder = results_dir.join("lightning_logs").join(format!("version_{version}"));
        std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
        let hparams = folder.join("hparams.yaml");
        std::fs::write(&hparams, "{}\n").map_err(Error::write(&hparams))?;
        let seconds = now().floor() as u64;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let path = folder.join(format!("events.out.tfevents.{seconds}.{host}.{}.0", std::process::id()));
        let file = File::create(&path).map_err(Error::write(&path))?;
        let mut writer = Self { path, file };
        writer.event(0, What::FileVersion("brain.Event:2".to_owned()))?;
        Ok(writer)
    }

    /// The event file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number. Upstream's tags are `train_loss_epoch`, `val_loss`, `acc`, `lr` and `epoch`; its step is the number of
    /// optimizer steps before the last one, so an epoch that ends after 2 steps is logged at step 1.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalar(&mut self, tag: &str, step: i64, value: f64) -> Result<()> {
        self.value(tag, step, Content::SimpleValue(value as f32))
    }

    /// A picture from RGB bytes `[height, width, 3]`, stored as PNG.
    ///
    /// # Errors
    /// The bytes do not fit the size, or the file cannot be written.
    pub fn picture(&mut self, tag: &str, step: i64, width: u32, height: u32, rgb: &[u8]) -> Result<()> {
        let encoded_image_string = self.png(width, height, rgb)?;
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded_image_string };
        self.value(tag, step, Content::Image(image))
    }

    fn png(&self, width: u32, height: u32, rgb: &[u8]) -> Result<Vec<u8>> {
        let expected = width as usize * height as usize * 3;
        if rgb.len() != expected {
            return Err(Error::Picture { width, height, expected, found: rgb.len() });
        }
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(rgb));
        written.map_err(|error| Error::write(&self.path)(std::io::Error::other(error)))?;
        Ok(bytes)
    }

    fn value(&mut self, tag: &str, step: i64, content: Content) -> Result<()> {
        let value = SummaryValue { tag: tag.to_owned(), content: Some(content) };
        self.event(step, What::Summary(Summary { value: vec![value] }))
    }

    fn event(&mut self, step: i64, what: What) -> Result<()> {
        let data = Event { wall_time: now(), step, what: Some(what) }.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let mut frame = Vec::with_capacity(data.len() + 16);
        frame.extend_from_slice(&length);
        frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
        frame.extend_from_slice(&data);
        frame.extend_from_slice(&masked_crc(&data).to_le_bytes());
        self.file.write_all(&frame).map_err(Error::write(&self.path))
    }
}

/// Removes from the event files of a version what was logged at `step` or later, which a resumed training will log
/// again, and files in which nothing else is left.
///
/// # Errors
/// A file cannot be read or written.
pub fn rewind(results_dir: &Path, version: u32, step: u64) -> Result<()> {
    let folder = results_dir.join("lightning_logs").join(format!("version_{version}"));
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::write(&folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(Error::write(&folder))?.path();
        let is_ours =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("events.out.tfevents."));
        if !is_ours {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(Error::write(&path))?;
        let (kept, events) = frames_before(&bytes, step as i64);
        if events == 0 {
            std::fs::remove_file(&path).map_err(Error::write(&path))?;
        } else if kept.len() != bytes.len() {
            super::write_atomically(&path, &kept)?;
        }
    }
    Ok(())
}

/// The frames of events before `step`, and how many hold a value. A frame that a crash cut short is left out.
fn frames_before(bytes: &[u8], step: i64) -> (Vec<u8>, usize) {
    let (mut kept, mut events) = (Vec::with_capacity(bytes.len()), 0);
    let mut rest = bytes;
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u64::from_le_bytes(*head)).unwrap_or(usize::MAX);
        let Some(frame) = length.checked_add(16).and_then(|length| rest.get(..length)) else { break };
        match Event::decode(&frame[12..12 + length]) {
            Ok(Event { what: Some(What::FileVersion(_)), .. }) => kept.extend_from_slice(frame),
            Ok(event) if event.step < step => {
                kept.extend_from_slice(frame);
                events += 1;
            }
            _ => {}
        }
        rest = &rest[frame.len()..];
    }
    (kept, events)
}

/// TFRecord's rotation of a CRC-32C, so that a checksum over data that holds checksums stays useful.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests;
