//! `results.parquet`: the table in columns.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use super::Row;

/// Rows that are written together, and held in memory as columns.
const ROWS_PER_GROUP: usize = 1 << 20;

pub(super) fn write<'a>(out: impl Write + Send, rows: impl Iterator<Item = Row<'a>>) -> io::Result<()> {
    table(out, rows).map_err(io::Error::other)
}

fn table<'a>(out: impl Write + Send, mut rows: impl Iterator<Item = Row<'a>>) -> Result<(), ParquetError> {
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(out, Arc::new(schema()?), properties)?;
    loop {
        let group: Vec<Row<'_>> = rows.by_ref().take(ROWS_PER_GROUP).collect();
        if group.is_empty() {
            break;
        }
        let mut columns = writer.next_row_group()?;
        write_group(&mut columns, &group)?;
        columns.close()?;
    }
    writer.close()?;
    Ok(())
}

fn schema() -> Result<Type, ParquetError> {
    let column = |name: &str, physical, logical: Option<LogicalType>, repetition| {
        Type::primitive_type_builder(name, physical)
            .with_logical_type(logical)
            .with_repetition(repetition)
            .build()
            .map(Arc::new)
    };
    let text = Some(LogicalType::String);
    Type::group_type_builder("predictions")
        .with_fields(vec![
            column("path", Physical::BYTE_ARRAY, text.clone(), Repetition::REQUIRED)?,
            column("rank", Physical::INT32, None, Repetition::REQUIRED)?,
            column("class_index", Physical::INT32, None, Repetition::REQUIRED)?,
            column("class", Physical::BYTE_ARRAY, text, Repetition::OPTIONAL)?,
            column("probability", Physical::FLOAT, None, Repetition::REQUIRED)?,
        ])
        .build()
}

/// The columns in the order of the schema.
fn write_group<W: Write + Send>(
    columns: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Row<'_>],
) -> Result<(), ParquetError> {
    let paths: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.path)).collect();
    put::<W, ByteArrayType>(columns, &paths, None)?;
    put::<W, Int32Type>(columns, &rows.iter().map(|row| row.rank).collect::<Vec<_>>(), None)?;
    put::<W, Int32Type>(columns, &rows.iter().map(|row| row.class_index as i32).collect::<Vec<_>>(), None)?;
    let names: Vec<ByteArray> = rows.iter().filter_map(|row| row.class).map(ByteArray::from).collect();
    let given: Vec<i16> = rows.iter().map(|row| i16::from(row.class.is_some())).collect();
    put::<W, ByteArrayType>(columns, &names, Some(&given))?;
    put::<W, FloatType>(columns, &rows.iter().map(|row| row.probability).collect::<Vec<_>>(), None)
}

fn put<W: Write + Send, T: parquet::data_type::DataType>(
    columns: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    given: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("the schema has fewer columns than the table".into());
    let mut column = columns.next_column()?.ok_or_else(missing)?;
    column.typed::<T>().write_batch(values, given, None)?;
    column.close()
}
