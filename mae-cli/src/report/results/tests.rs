#![allow(clippy::unwrap_used)]

use super::*;

fn predictions() -> Vec<Prediction> {
    let of = |sample, path: &str, classes: &[(u32, f32)]| Prediction {
        sample,
        path: path.to_owned(),
        classes: classes.to_vec(),
    };
    vec![
        of(2, "/b/x.png", &[(3, 0.75), (0, 0.25)]),
        of(0, "/a/b.png", &[(0, 0.5), (2, 0.375)]),
        of(1, "/a/with, comma.png", &[(11, 0.9), (1, 0.1)]),
        // The same sample from another rank.
        of(0, "/a/b.png", &[(0, 0.5), (2, 0.375)]),
    ]
}

fn names() -> Vec<String> {
    ["Ankle boot", "Bag", "Coat, long", "Dress"].map(str::to_owned).to_vec()
}

fn written(format: Format, names: &[String]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), format, names, predictions()).unwrap();
    assert_eq!(path, folder.path().join(format.file_name()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
    std::fs::read(path).unwrap()
}

fn text(format: Format, names: &[String]) -> String {
    String::from_utf8(written(format, names)).unwrap()
}

#[test]
fn taos_csv_has_no_header_and_quotes_only_where_needed() {
    let expected = "/a/b.png,0\n\"/a/with, comma.png\",11\n/b/x.png,3\n";
    assert_eq!(text(Format::TaoCsv, &names()), expected);
}

#[test]
fn tables_have_names_and_probabilities_in_the_order_of_the_samples() {
    insta::assert_snapshot!(text(Format::Csv, &names()), @r#"
    path,rank,class_index,class,probability
    /a/b.png,1,0,Ankle boot,0.5
    /a/b.png,2,2,"Coat, long",0.375
    "/a/with, comma.png",1,11,,0.9
    "/a/with, comma.png",2,1,Bag,0.1
    /b/x.png,1,3,Dress,0.75
    /b/x.png,2,0,Ankle boot,0.25
    "#);
    insta::assert_snapshot!(text(Format::Jsonl, &names()), @r#"
    {"path":"/a/b.png","predictions":[{"class_index":0,"class":"Ankle boot","probability":0.5},{"class_index":2,"class":"Coat, long","probability":0.375}]}
    {"path":"/a/with, comma.png","predictions":[{"class_index":11,"class":null,"probability":0.9},{"class_index":1,"class":"Bag","probability":0.1}]}
    {"path":"/b/x.png","predictions":[{"class_index":3,"class":"Dress","probability":0.75},{"class_index":0,"class":"Ankle boot","probability":0.25}]}
    "#);
}

#[test]
#[cfg(feature = "parquet")]
fn parquet_reads_back_as_the_table() {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    use ::parquet::record::RowAccessor;

    for names in [names(), Vec::new()] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.parquet");
        std::fs::write(&path, written(Format::Parquet, &names)).unwrap();
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let found: Vec<_> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap()).collect();
        let mut sorted = predictions();
        sorted.sort_by_key(|prediction| prediction.sample);
        sorted.dedup();
        let expected: Vec<_> = rows(&sorted, &names).collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.get_string(0).unwrap(), expected.path);
            assert_eq!(found.get_int(1).unwrap(), expected.rank);
            assert_eq!(found.get_int(2).unwrap(), expected.class_index as i32);
            assert_eq!(found.get_string(3).ok().map(String::as_str), expected.class);
            assert_eq!(found.get_float(4).unwrap(), expected.probability);
        }
    }
}

#[test]
fn a_missing_folder_is_an_error_that_names_the_file() {
    let error = write(Path::new("/nonexistent/folder"), Format::Jsonl, &[], Vec::new()).unwrap_err();
    assert!(error.to_string().contains("results.jsonl"), "{error}");
}
