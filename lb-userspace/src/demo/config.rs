//! The configuration of the demonstration, with the path of the running program filled in.
//!
//! The program is not always called `lbctl` in some folder of `$PATH`, so its own path is written into the command.

use std::path::Path;

/// What the embedded configuration is called in reports.
pub const NAME: &str = "the built-in demonstration";

/// The text with its placeholder.
const TEXT: &str = include_str!("lb.toml");

/// The demonstration's `lb.toml`, whose programs run the `lbctl` at `executable`, as `user` if one is named.
pub fn text(executable: &Path, user: Option<&str>) -> String {
    let word = shell_words::quote(&executable.to_string_lossy()).into_owned();
    let command = format!("\"{} ", escaped(&word));
    let user = user.map(|user| format!("user = \"{}\"\n", escaped(user))).unwrap_or_default();
    TEXT.replace("\"$LBCTL ", &command) + &user
}

/// `word` as a part of a TOML basic string.
fn escaped(word: &str) -> String {
    word.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(executable: &str) -> String {
        let table: toml::Table = text(Path::new(executable), None).parse().unwrap();
        table["program"]["demo"]["command"].as_str().unwrap().to_owned()
    }

    #[test]
    fn the_running_program_is_the_backend() {
        assert_eq!(command("/opt/lbctl"), "/opt/lbctl demo-backend --port $PORT");
    }

    #[test]
    fn the_user_is_the_programs() {
        let table: toml::Table = text(Path::new("/opt/lbctl"), Some("nobody")).parse().unwrap();
        assert_eq!(table["program"]["demo"]["user"].as_str(), Some("nobody"));
    }

    #[test]
    fn a_path_with_spaces_and_quotes_stays_one_word() {
        let words = shell_words::split(&command(r#"/opt/my "lb"/lbctl"#)).unwrap();
        assert_eq!(words[0], r#"/opt/my "lb"/lbctl"#);
        assert_eq!(words.len(), 4);
    }
}
