//! A page taken apart into its sentences.

/// One of them, and where it stands.
#[derive(Debug)]
pub(crate) struct Sentence {
    /// The heading above it.
    pub(crate) section: String,
    /// Without what makes it bold.
    pub(crate) text: String,
}

/// Every sentence of a page that is neither heading nor code. A bullet begins a new one, and so does a cell of a table; rows of
/// tables whose last column says what shows them are left out, because that is asked of each row.
pub(crate) fn of(page: &str) -> Vec<Sentence> {
    let mut all = Vec::new();
    let (mut code, mut section, mut open) = (false, String::new(), String::new());
    let mut table: Option<&str> = None;
    let mut close = |section: &str, open: &mut String| {
        for text in split(&std::mem::take(open).replace("**", "")) {
            // A heading in all but form.
            let text = text.strip_prefix("What remains:").unwrap_or(&text).trim().to_owned();
            if !text.is_empty() {
                let section = section.to_owned();
                all.push(Sentence { section, text });
            }
        }
    };
    for line in page.lines() {
        let fence = line.starts_with("```");
        code ^= fence;
        let row = !code && line.starts_with('|');
        if code || fence || row || line.is_empty() || line.starts_with('#') || line.starts_with("- ") {
            close(&section, &mut open);
        }
        if code || fence {
            continue;
        }
        if let Some(heading) = line.strip_prefix('#') {
            section = heading.trim_start_matches('#').trim().to_owned();
        } else if row {
            let head = *table.get_or_insert(line);
            if head != line && !line.starts_with("| ---") && !is_shown(head) && !are_limits(head) {
                for cell in line.trim_matches('|').split(" | ") {
                    cell.trim().clone_into(&mut open);
                    close(&section, &mut open);
                }
            }
        } else {
            open.push_str(line.strip_prefix("- ").unwrap_or(line).trim());
            open.push(' ');
        }
        if !row {
            table = None;
        }
    }
    close(&section, &mut open);
    all
}

/// Whether the rows of a table with this head say in their last column what shows them.
pub(crate) fn is_shown(head: &str) -> bool {
    head.ends_with("| shown by |")
}

/// Whether they are limits, one and all: copies of secrets that nobody wipes.
fn are_limits(head: &str) -> bool {
    head == "| copy | of what | made by |"
}

/// At each full stop that is in no code, link or parentheses.
fn split(text: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    let (mut start, mut depth, mut code) = (0, 0_i32, false);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '`' => code = !code,
            '(' | '[' if !code => depth += 1,
            ')' | ']' if !code => depth -= 1,
            '.' if !code && depth == 0 && chars.peek().is_none_or(|(_, next)| *next == ' ') => {
                let (sentence, _) = text.split_at(at + 1);
                sentences.push(sentence.split_at(start).1.trim().to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    sentences.push(text.split_at(start).1.trim().to_owned());
    sentences.retain(|sentence| !sentence.is_empty());
    sentences
}

#[test]
fn a_page_falls_into_its_sentences() {
    let page = "# One\n\nThis, in `a. b` (c. d),\ngoes on. **Next** one:\n\n```sh\nno. code\n```\n- A bullet. Its\n  end.\n- B\n\n\
                ## Two\n\n| a | b |\n| --- | --- |\n| One. Two. | `x | y`. |\n\n| a | shown by |\n| --- | --- |\n| left | out |\n\n\
                What remains: this.\n";
    let found: Vec<_> = of(page).into_iter().map(|found| (found.section, found.text)).collect();
    let expected = [
        ("One", "This, in `a. b` (c. d), goes on."),
        ("One", "Next one:"),
        ("One", "A bullet."),
        ("One", "Its end."),
        ("One", "B"),
        ("Two", "One."),
        ("Two", "Two."),
        ("Two", "`x"),
        ("Two", "y`."),
        ("Two", "this."),
    ];
    assert_eq!(
        found,
        expected.map(|(section, text)| (section.to_owned(), text.to_owned()))
    );
}
