//! The forms of Informix SQL that the simulated AXL takes; all else is a syntax error, also where `SQLite` would take it.
//!
//! ```text
//! SELECT * | column, … FROM table [WHERE condition] [ORDER BY column [ASC|DESC], …]
//! INSERT INTO table (column, …) VALUES (literal | newid(), …)            exactly one row
//! DELETE FROM table WHERE condition
//! condition: column = <> != < > <= >= literal, [NOT] LIKE, [NOT] IN (…), IS [NOT] NULL; AND, OR, NOT, parentheses
//! ```
//!
//! The parser is made by hand, because refusing is its purpose. A parser of a library takes far more SQL than these forms, so
//! each thing that it takes beyond them would have to be found and refused in its tree.

/// A statement in one of the accepted forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it does.
    pub verb: Verb,
    /// The table, lower case.
    pub table: String,
    /// The statement for `SQLite`, put together from the tokens that were understood.
    pub text: String,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads rows.
    Select,
    /// Adds one row.
    Insert,
    /// Removes rows.
    Delete,
}

/// An error as Informix names it: its number and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// As -201.
    pub code: i64,
    /// Without the number.
    pub message: String,
}

impl SqlError {
    /// -201, with what the simulator did not understand (the real one names no place).
    fn syntax(at: &str) -> Self {
        Self {
            code: -201,
            message: format!("A syntax error has occurred. (at `{at}`)"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Literal(String),
    Symbol(&'static str),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Word(text) | Self::Literal(text) => text,
            Self::Symbol(text) => text,
        }
    }
}

/// Reads one statement.
pub fn parse(text: &str) -> Result<Statement, SqlError> {
    let tokens = tokenize(text)?;
    let mut parser = Reader { tokens: &tokens, at: 0 };
    let (verb, table) = match parser.word()?.as_str() {
        "select" => (Verb::Select, parser.select()?),
        "insert" => (Verb::Insert, parser.insert()?),
        "delete" => (Verb::Delete, parser.delete()?),
        other => return Err(SqlError::syntax(other)),
    };
    if let Some(rest) = parser.peek() {
        return Err(SqlError::syntax(rest.text()));
    }
    Ok(Statement {
        verb,
        table,
        text: for_sqlite(&tokens),
    })
}

/// The tokens again, `newid()` replaced by what it stands for.
fn for_sqlite(tokens: &[Token]) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let mut rest = tokens;
    while let Some((token, behind)) = rest.split_first() {
        rest = behind;
        if *token == Token::Word("newid".into()) && behind.first() == Some(&Token::Symbol("(")) {
            let _ = write!(out, "'{}' ", uuid::Uuid::new_v4());
            rest = behind.get(2..).unwrap_or_default();
        } else {
            out.push_str(token.text());
            out.push(' ');
        }
    }
    out
}

fn tokenize(text: &str) -> Result<Vec<Token>, SqlError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            c if c.is_ascii_whitespace() => c.len_utf8(),
            'A'..='Z' | 'a'..='z' | '_' => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_ascii_lowercase()));
                end
            }
            '0'..='9' => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                tokens.push(Token::Literal(rest[..end].into()));
                end
            }
            '\'' => {
                let end = literal_end(rest).ok_or_else(|| SqlError {
                    code: -282,
                    message: "Found a quote for which there is no matching quote.".into(),
                })?;
                tokens.push(Token::Literal(rest[..end].into()));
                end
            }
            _ => {
                let symbol = ["<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", ",", "*"]
                    .into_iter()
                    .find(|symbol| rest.starts_with(symbol))
                    .ok_or_else(|| SqlError::syntax(&c.to_string()))?;
                tokens.push(Token::Symbol(symbol));
                symbol.len()
            }
        };
        rest = &rest[taken..];
    }
    Ok(tokens)
}

/// Where a literal that starts with a quote ends; a doubled quote belongs to it.
fn literal_end(text: &str) -> Option<usize> {
    let mut from = 1;
    loop {
        let end = from + text.get(from..)?.find('\'')? + 1;
        if text[end..].starts_with('\'') {
            from = end + 1;
        } else {
            return Some(end);
        }
    }
}

const RESERVED: [&str; 16] = [
    "select", "from", "where", "and", "or", "not", "in", "like", "is", "null", "insert", "into", "values", "delete",
    "order", "limit",
];

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Result<Token, SqlError> {
        let token = self.peek().cloned().ok_or_else(|| SqlError::syntax("end"))?;
        self.at += 1;
        Ok(token)
    }

    /// Takes that word or symbol if it comes next.
    fn take(&mut self, text: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(t)) if t == text)
            || matches!(self.peek(), Some(Token::Symbol(t)) if *t == text);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), SqlError> {
        if self.take(text) {
            return Ok(());
        }
        Err(SqlError::syntax(self.peek().map_or("end", Token::text)))
    }

    fn word(&mut self) -> Result<String, SqlError> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => Err(SqlError::syntax(other.text())),
        }
    }

    fn name(&mut self) -> Result<String, SqlError> {
        let word = self.word()?;
        if RESERVED.contains(&word.as_str()) {
            return Err(SqlError::syntax(&word));
        }
        Ok(word)
    }

    fn literal(&mut self) -> Result<(), SqlError> {
        match self.next()? {
            Token::Literal(_) => Ok(()),
            other => Err(SqlError::syntax(other.text())),
        }
    }

    fn select(&mut self) -> Result<String, SqlError> {
        if !self.take("*") {
            self.name()?;
            while self.take(",") {
                self.name()?;
            }
        }
        self.expect("from")?;
        let table = self.name()?;
        if self.take("where") {
            self.condition()?;
        }
        if self.take("order") {
            self.expect("by")?;
            loop {
                self.name()?;
                let _ = self.take("asc") || self.take("desc");
                if !self.take(",") {
                    break;
                }
            }
        }
        Ok(table)
    }

    fn insert(&mut self) -> Result<String, SqlError> {
        self.expect("into")?;
        let table = self.name()?;
        self.expect("(")?;
        let mut columns = 1;
        self.name()?;
        while self.take(",") {
            self.name()?;
            columns += 1;
        }
        self.expect(")")?;
        self.expect("values")?;
        self.expect("(")?;
        let mut values = 0;
        loop {
            if self.take("newid") {
                self.expect("(")?;
                self.expect(")")?;
            } else {
                self.literal()?;
            }
            values += 1;
            if !self.take(",") {
                break;
            }
        }
        self.expect(")")?;
        if columns != values {
            return Err(SqlError {
                code: -236,
                message: "Number of columns in INSERT does not match number of VALUES.".into(),
            });
        }
        Ok(table)
    }

    fn delete(&mut self) -> Result<String, SqlError> {
        self.expect("from")?;
        let table = self.name()?;
        self.expect("where")?;
        self.condition()?;
        Ok(table)
    }

    fn condition(&mut self) -> Result<(), SqlError> {
        loop {
            self.term()?;
            if !(self.take("and") || self.take("or")) {
                return Ok(());
            }
        }
    }

    fn term(&mut self) -> Result<(), SqlError> {
        if self.take("not") {
            return self.term();
        }
        if self.take("(") {
            self.condition()?;
            return self.expect(")");
        }
        self.name()?;
        if self.take("is") {
            let _ = self.take("not");
            return self.expect("null");
        }
        let negated = self.take("not");
        if self.take("like") {
            return self.literal();
        }
        if self.take("in") {
            self.expect("(")?;
            self.literal()?;
            while self.take(",") {
                self.literal()?;
            }
            return self.expect(")");
        }
        if !negated {
            for operator in ["=", "<>", "!=", "<=", ">=", "<", ">"] {
                if self.take(operator) {
                    return self.literal();
                }
            }
        }
        Err(SqlError::syntax(self.peek().map_or("end", Token::text)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("SELECT pkid, cp_id FROM xmpps2snodes", Verb::Select, "xmpps2snodes")]
    #[case("select * from xmpps2snodes", Verb::Select, "xmpps2snodes")]
    #[case(
        "select pkid, name, nodeid, tkprocessnoderole from processnode where tkprocessnoderole = 2 and name <> 'EnterpriseWideData'",
        Verb::Select,
        "processnode"
    )]
    #[case(
        "SELECT tabname FROM systables WHERE tabname IN ('xmpps2snodes', 'xmpp2snodes') ORDER BY tabname",
        Verb::Select,
        "systables"
    )]
    #[case(
        "SELECT tabname FROM systables WHERE tabname LIKE 'xmpp%2snodes'",
        Verb::Select,
        "systables"
    )]
    #[case(
        "INSERT INTO xmpps2snodes (pkid, cp_id) VALUES ('055c13d9-943d-459d-a3c6-af1d1176936d', 'it''s')",
        Verb::Insert,
        "xmpps2snodes"
    )]
    #[case(
        "insert into xmpps2snodes(pkid,cp_id) values(newid(),'x')",
        Verb::Insert,
        "xmpps2snodes"
    )]
    #[case(
        "DELETE FROM xmpps2snodes WHERE pkid='x' and cp_id = 'y'",
        Verb::Delete,
        "xmpps2snodes"
    )]
    fn accepted_forms(#[case] text: &str, #[case] verb: Verb, #[case] table: &str) {
        let statement = parse(text).unwrap();
        assert_eq!((statement.verb, statement.table.as_str()), (verb, table));
    }

    #[rstest]
    #[case::limit("SELECT pkid FROM xmpps2snodes LIMIT 1", -201)]
    #[case::double_quotes(r#"SELECT pkid FROM xmpps2snodes WHERE pkid = "x""#, -201)]
    #[case::several_rows("INSERT INTO t (pkid, cp_id) VALUES ('a','b'), ('c','d')", -201)]
    #[case::conflict_clause("INSERT OR IGNORE INTO t (pkid) VALUES ('a')", -201)]
    #[case::no_columns("INSERT INTO t VALUES ('a','b')", -201)]
    #[case::count("INSERT INTO t (pkid, cp_id) VALUES ('a')", -236)]
    #[case::delete_all("DELETE FROM t", -201)]
    #[case::two_statements("SELECT * FROM t; DELETE FROM t WHERE pkid = 'x'", -201)]
    #[case::semicolon("SELECT * FROM t;", -201)]
    #[case::comment("SELECT * FROM t -- all", -201)]
    #[case::update("UPDATE t SET cp_id = 'x' WHERE pkid = 'y'", -201)]
    #[case::pragma("PRAGMA table_info(t)", -201)]
    #[case::quote("SELECT * FROM t WHERE pkid = 'x", -282)]
    #[case::function("SELECT count(*) FROM t", -201)]
    #[case::join("SELECT * FROM t, u", -201)]
    #[case::literal_is_no_column("SELECT * FROM t WHERE 1 = 1", -201)]
    #[case::empty("", -201)]
    fn refused_forms(#[case] text: &str, #[case] code: i64) {
        assert_eq!(parse(text).unwrap_err().code, code);
    }
}
