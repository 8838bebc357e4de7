use super::*;

/// The events of a file; checks lengths and checksums on the way.
fn events(path: &Path) -> Vec<Event> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_at(8);
        let (check, tail) = tail.split_at(4);
        assert_eq!(masked_crc(length).to_le_bytes(), check);
        let size = usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
        let (data, tail) = tail.split_at(size);
        let (check, tail) = tail.split_at(4);
        assert_eq!(masked_crc(data).to_le_bytes(), check);
        out.push(Event::decode(data).unwrap());
        rest = tail;
    }
    out
}

#[test]
fn checksums_are_crc32c_with_tfrecords_mask() {
    // CRC-32C of "123456789" is 0xe3069283 (RFC 3720); masked: rotated right by 15, plus 0xa282ead8.
    assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn the_first_bytes_are_those_of_tensorflow() {
    // A version event with wall time 0: what `tf.io.TFRecordWriter` writes for it, without the time.
    let event = Event { wall_time: 0.0, step: 0, what: Some(What::FileVersion("brain.Event:2".to_owned())) };
    assert_eq!(event.encode_to_vec(), [b"\x1a\x0d".as_slice(), b"brain.Event:2"].concat());
}

#[test]
fn scalars_and_pictures_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path(), 1).unwrap();
    writer.scalar("train_loss_epoch", 1, 15.7951832).unwrap();
    writer.scalar("epoch", 1, 0.0).unwrap();
    writer.picture("reconstruction", 1, 2, 1, &[255, 0, 0, 0, 0, 255]).unwrap();
    let path = writer.path().to_owned();
    assert_eq!(path.parent().unwrap(), folder.path().join("lightning_logs/version_1"));
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(
        name.starts_with("events.out.tfevents.") && name.ends_with(&format!(".{}.0", std::process::id())),
        "{name}"
    );
    assert_eq!(std::fs::read_to_string(path.with_file_name("hparams.yaml")).unwrap(), "{}\n");

    let events = events(&path);
    assert_eq!(events.len(), 4);
    assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".to_owned())));
    let value = |index: usize| match &events[index].what {
        Some(What::Summary(summary)) => (events[index].step, summary.value[0].clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(value(1).0, 1);
    assert_eq!(value(1).1.tag, "train_loss_epoch");
    assert_eq!(value(1).1.content, Some(Content::SimpleValue(15.795_183)));
    // Zero is a value like others: protobuf must not leave it out.
    assert_eq!(value(2).1.content, Some(Content::SimpleValue(0.0)));
    let Some(Content::Image(image)) = value(3).1.content else { panic!() };
    assert_eq!((image.width, image.height, image.colorspace), (2, 1, 3));
    let mut reader = png::Decoder::new(std::io::Cursor::new(image.encoded_image_string)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, [255, 0, 0, 0, 0, 255]);
}

#[test]
fn a_picture_of_the_wrong_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path(), 0).unwrap();
    let error = writer.picture("x", 0, 2, 2, &[0; 3]).unwrap_err();
    assert_eq!(error.to_string(), "a picture of 2 x 2 pixels needs 12 bytes of RGB, found 3");
}
