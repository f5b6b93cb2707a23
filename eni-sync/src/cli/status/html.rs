//! HTML in which all values are escaped: names of pods, networks or EC2 are shown as text and
//! never interpreted.

use common::text::printable;

/// A text, escaped for an element or an attribute in double quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A table of escaped texts. Each cell has the title of its column, which a narrow window shows
/// instead of the header row.
pub(super) fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = "<table><thead><tr>".to_owned();
    for title in titles {
        html.push_str(&format!("<th scope=\"col\">{}</th>", escape(title)));
    }
    html.push_str("</tr></thead><tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for (title, cell) in titles.iter().zip(row) {
            let (title, cell) = (escape(title), escape(cell));
            html.push_str(&format!("<td data-title=\"{title}\">{cell}</td>"));
        }
        html.push_str("</tr>\n");
    }
    html + "</tbody></table>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_never_markup() {
        let hostile = "\"><script>alert('1')</script>&amp;\u{202e}";
        let shown = escape(hostile);
        assert!(
            !shown.contains(['<', '>', '"', '\'', '\u{202e}']),
            "{shown}"
        );
        assert!(shown.contains("&lt;script&gt;") && shown.contains("&amp;amp;"));
        let html = table(&["<A>"], &[vec!["<b>".to_owned()]]);
        assert!(
            html.contains("<td data-title=\"&lt;A&gt;\">&lt;b&gt;</td>"),
            "{html}"
        );
    }
}
