//! Finding the library: one test, because a process loads it once.

use my_llm_ffi::{library_path, load, load_from, version};

#[test]
fn a_wrong_folder_is_refused_and_the_right_one_loads() {
    assert_eq!(library_path(), None);
    let error = load_from("/nowhere").expect_err("there is no such folder");
    assert_eq!(error.kind(), "ImportError");
    assert!(error.message().contains("/nowhere/libmy_llm_ffi.so is not there"), "{error}");

    load().expect("the library is installed, or MY_LLM_FFI_LIBDIR names its folder");
    let path = library_path().expect("it is loaded");
    if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
        load_from(folder).expect("the same folder again");
    }
    let other = load_from("/nowhere").expect_err("another folder");
    assert!(other.message().contains("is loaded already"), "{other}");
    assert!(version().expect("a version").starts_with(|c: char| c.is_ascii_digit()));
}
