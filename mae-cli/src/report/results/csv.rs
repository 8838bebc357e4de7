//! `results.csv`: TAO's, or a table.

use std::io::{self, Write};

use super::{Prediction, Row};

/// `path,class index`, without a header.
pub(super) fn write_tao(out: impl Write, predictions: &[Prediction]) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(out);
    for Prediction { path, classes, .. } in predictions {
        if let Some((class, _)) = classes.first() {
            writer.write_record([path, &class.to_string()])?;
        }
    }
    writer.flush()
}

/// A header, then a row for each class that was named.
pub(super) fn write_table<'a>(out: impl Write, rows: impl Iterator<Item = Row<'a>>) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(["path", "rank", "class_index", "class", "probability"])?;
    for Row { path, rank, class_index, class, probability } in rows {
        let (rank, class_index) = (rank.to_string(), class_index.to_string());
        writer.write_record([path, &rank, &class_index, class.unwrap_or(""), &probability.to_string()])?;
    }
    writer.flush()
}
