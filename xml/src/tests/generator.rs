//! Streams that are valid and odd: made from a list of choices, so that fewer and smaller choices
//! make a simpler stream.

use std::fmt::Write as _;

/// Prefixes that a header may bind, as written, and what they stand for. Some are the names that
/// a rewritten stanza would use itself.
const ON_HEADER: [(&str, &str, &str); 9] = [
    ("u", "urn:u", "urn:u"),
    ("db", "jabber:server:dialback", "jabber:server:dialback"),
    ("c", "jabber:server", "jabber:server"),
    ("v", "urn:v&amp;1", "urn:v&1"),
    ("w", "urn:u", "urn:u"),
    ("\u{fc}", "urn:\u{fc}", "urn:\u{fc}"),
    ("a0", "urn:a&#x30;", "urn:a0"),
    ("k", "jabber:component:accept", "jabber:component:accept"),
    ("z", "jabber:client", "jabber:client"),
];
/// Prefixes that an element may bind, also ones that are bound outside.
const PREFIXES: [&str; 7] = ["p", "q", "u", "a0", "a1", "c", "\u{fc}"];
/// Namespaces that an element may bind, as written, and what they are.
const NAMESPACES: [(&str, &str); 7] = [
    ("urn:p", "urn:p"),
    ("urn:u", "urn:u"),
    ("jabber:server", "jabber:server"),
    ("jabber:component:accept", "jabber:component:accept"),
    ("urn:q&#38;x", "urn:q&x"),
    ("urn:'&quot;", "urn:'\""),
    ("jabber:client", "jabber:client"),
];
const NAMES: [&str; 7] = ["message", "body", "a", "b-1", "\u{e9}", "x.y", "iq"];
const ATTRIBUTES: [&str; 7] = ["a", "from", "to", "id", "type", "lang", "\u{e9}t\u{e9}"];
/// Values as written, for use between quotation marks.
const VALUES: [&str; 9] = [
    "",
    "x",
    "&lt;&#10;&amp;",
    "\u{e9}\u{1f600}",
    "a b\tc\nd",
    "&apos;'&quot;",
    "> ]]>",
    "a\r\nb",
    "&#x10FFFF;&#9;",
];
const TEXTS: [&str; 10] = [
    "x",
    " ",
    "&amp;&lt;&gt;",
    "&#x1F600;&#13;",
    "<![CDATA[<&]] >]]>",
    "<![CDATA[]]>",
    "\u{e9}\r\ny",
    "\"'",
    "\u{fffd}\u{85}",
    "\t\n",
];
const SPACES: [&str; 4] = [" ", "  ", "\n", " \t\r\n"];

/// What is bound where, innermost last.
type Scope = Vec<(String, String)>;

/// Turns choices into a stream.
pub(super) struct Maker<'a> {
    choices: std::slice::Iter<'a, u16>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(choices: &'a [u16]) -> Self {
        Self {
            choices: choices.iter(),
        }
    }

    /// A number below `of`; 0, the simplest, when the choices are used up.
    fn pick(&mut self, of: usize) -> usize {
        usize::from(self.choices.next().copied().unwrap_or_default()) % of
    }

    /// One of these.
    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.pick(of.len())]
    }

    /// A header, what ends its stream, and some stanzas.
    pub(super) fn stream(&mut self) -> (String, Vec<String>, String) {
        let declaration = self.one(&[
            "",
            "<?xml version='1.0'?>",
            "<?xml version=\"1.0\" encoding='utf-8' ?>\n",
        ]);
        let mut scope = Scope::new();
        let mut bind = |prefix: &str, name: &str| scope.push((prefix.to_owned(), name.to_owned()));
        let streams = "http://etherx.jabber.org/streams";
        let (root, mut header) = match self.pick(4) {
            0 | 1 => {
                bind("", "jabber:server");
                bind("stream", streams);
                (
                    "stream:stream",
                    format!("<stream:stream xmlns='jabber:server' xmlns:stream='{streams}'"),
                )
            }
            2 => {
                bind("", "jabber:server");
                bind("s", streams);
                (
                    "s:stream",
                    format!("<s:stream xmlns:s=\"{streams}\" xmlns = 'jabber:server'"),
                )
            }
            _ => {
                bind("", streams);
                bind("c", "jabber:server");
                ("stream", format!("<stream xmlns='{streams}' xmlns:c='jabber:server'"))
            }
        };
        for (prefix, written, name) in ON_HEADER {
            if self.pick(3) == 1 && !scope.iter().any(|(known, _)| known == prefix) {
                write!(header, " xmlns:{prefix}='{written}'").unwrap();
                scope.push((prefix.to_owned(), name.to_owned()));
            }
        }
        if self.pick(3) == 1 {
            header += " xml:lang='de&amp;'";
        }
        header += " from='vngtp.lab' version='1.0'>";
        let stanzas = (0..=self.pick(3)).map(|_| self.element(&scope, 0)).collect();
        (declaration.to_owned() + &header, stanzas, format!("</{root}>"))
    }

    fn element(&mut self, outside: &Scope, depth: usize) -> String {
        let mut scope = outside.clone();
        let mut declared = Vec::new();
        for _ in 0..self.pick(4).saturating_sub(1) {
            let prefix = self.one(&PREFIXES);
            let (written, name) = self.one(&NAMESPACES);
            let declaration = format!("xmlns:{prefix}=\"{}\"", written.replace('"', "&quot;"));
            if !declared
                .iter()
                .any(|d: &String| d.starts_with(&format!("xmlns:{prefix}=")))
            {
                declared.push(declaration);
                scope.push((prefix.to_owned(), name.to_owned()));
            }
        }
        match self.pick(6) {
            1 => {
                declared.push("xmlns='jabber:server'".to_owned());
                scope.push((String::new(), "jabber:server".to_owned()));
            }
            2 => {
                declared.push("xmlns='urn:d'".to_owned());
                scope.push((String::new(), "urn:d".to_owned()));
            }
            3 => {
                declared.push("xmlns=''".to_owned());
                scope.push((String::new(), String::new()));
            }
            4 => {
                declared.push("xmlns='jabber:component:accept'".to_owned());
                scope.push((String::new(), "jabber:component:accept".to_owned()));
            }
            _ => {}
        }
        let prefix = self.prefix(&scope);
        let name = self.one(&NAMES);
        let name = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}:{name}")
        };
        let mut tag = self.attributes(&scope);
        // Declarations count for the whole tag, wherever they stand in it.
        let at = self.pick(tag.len() + 1);
        tag.splice(at..at, declared);
        let mut xml = format!("<{name}");
        for attribute in tag {
            xml += self.one(&SPACES);
            xml += &attribute;
        }
        xml += self.one(&["", " ", "\n"]);
        let pieces = if depth < 4 { self.pick(4) } else { 0 };
        if pieces == 0 && self.pick(2) == 0 {
            return xml + "/>";
        }
        xml.push('>');
        for _ in 0..pieces {
            if self.pick(2) == 0 {
                xml += &self.element(&scope, depth + 1);
            } else {
                xml += self.one(&TEXTS);
            }
        }
        write!(xml, "</{name}{}>", self.one(&["", " ", "\t\r\n"])).unwrap();
        xml
    }

    /// A prefix in scope, or none.
    fn prefix(&mut self, scope: &Scope) -> String {
        if self.pick(3) != 1 {
            return String::new();
        }
        match self.pick(scope.len() + 1).checked_sub(1) {
            Some(at) => scope[at].0.clone(),
            None => "xml".to_owned(),
        }
    }

    /// Attributes with different expanded names.
    fn attributes(&mut self, scope: &Scope) -> Vec<String> {
        let bound = |prefix: &str| match prefix {
            "" => String::new(),
            "xml" => "xml".to_owned(),
            _ => scope.iter().rfind(|(p, _)| p == prefix).unwrap().1.clone(),
        };
        let mut known: Vec<(String, &str)> = Vec::new();
        let mut attributes = Vec::new();
        for _ in 0..self.pick(5).saturating_sub(1) {
            let (prefix, name, value) = (self.prefix(scope), self.one(&ATTRIBUTES), self.one(&VALUES));
            let expanded = (bound(&prefix), name);
            if known.contains(&expanded) {
                continue;
            }
            known.push(expanded);
            let name = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}:{name}")
            };
            let equals = self.one(&["=", " = ", "\n="]);
            attributes.push(if self.pick(2) == 0 {
                format!("{name}{equals}\"{value}\"")
            } else {
                format!("{name}{equals}'{}'", value.replace('\'', "&#39;"))
            });
        }
        attributes
    }
}
