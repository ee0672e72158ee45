//! The nodes' databases: one `SQLite` each, the publisher's the only one that is written; the others are copies of it.

use super::config::{ImpConfig, Row};
use super::sql::{SqlError, Statement};
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::types::Value;

/// Rows as (column, value) pairs in the order of the statement.
pub type Rows = Vec<Vec<(String, Option<String>)>>;

/// The database of one node.
#[derive(Debug)]
pub struct Database {
    connection: Mutex<Connection>,
    table: String,
}

/// All tables with their rows: what replication carries.
#[derive(Debug, Clone)]
pub struct Snapshot(Vec<TableCopy>);

#[derive(Debug, Clone)]
struct TableCopy {
    name: String,
    create: String,
    rows: Vec<Vec<Value>>,
}

impl Database {
    /// A database as after installation, with the rows of the configuration.
    pub fn new(config: &ImpConfig) -> Result<Self, testkit_base::Error> {
        let table = config.table.clone();
        if !["xmpps2snodes", "xmpp2snodes"].contains(&table.as_str()) {
            return Err(format!("table `{table}` is neither xmpps2snodes nor xmpp2snodes").into());
        }
        let connection = Connection::open_in_memory()?;
        connection.pragma_update(None, "case_sensitive_like", true)?;
        let role = if config.role_column {
            "tkprocessnoderole INTEGER NOT NULL,"
        } else {
            ""
        };
        connection.execute_batch(&format!(
            "CREATE TABLE {table} (pkid VARCHAR(36) NOT NULL PRIMARY KEY, cp_id VARCHAR(255) NOT NULL);
             CREATE TABLE processnode (pkid VARCHAR(36) NOT NULL PRIMARY KEY, name VARCHAR(255) NOT NULL UNIQUE,
               nodeid INTEGER NOT NULL, {role} tknodeusage INTEGER NOT NULL, description VARCHAR(128));
             CREATE TABLE systables (tabname VARCHAR(128) NOT NULL, tabid INTEGER NOT NULL PRIMARY KEY);"
        ))?;
        for (id, name) in (1..).zip(["systables", "processnode", table.as_str(), "enterpriseuser"]) {
            let id: i64 = id;
            connection.execute("INSERT INTO systables (tabname, tabid) VALUES (?1, ?2)", (name, id))?;
        }
        if config.redundancy {
            connection.execute_batch(
                "CREATE TABLE enterprisenode (name VARCHAR(255) NOT NULL, isprimary CHAR(1), tkhaserverstate INTEGER NOT NULL);",
            )?;
            for node in &config.nodes {
                // Under their host names alone, and normal.
                let host = node.name.split('.').next().unwrap_or_default();
                connection.execute(
                    "INSERT INTO enterprisenode (name, isprimary, tkhaserverstate) VALUES (?1, 't', 3)",
                    [host],
                )?;
            }
        }
        // As a mixed cluster shows it: a row that is no host, the call manager, then the IM&P nodes. Without roles
        // (9.x) IM&P has a database to itself.
        let mut nodes = vec![("EnterpriseWideData".to_string(), 1, 0)];
        if config.role_column {
            nodes.push(("cucm.coluc.com".to_string(), 1, 0));
        }
        for (index, node) in config.nodes.iter().enumerate() {
            nodes.push((node.name.clone(), 2, i64::from(index > 0)));
        }
        for (id, (name, role, usage)) in (1i64..).zip(nodes) {
            let pkid = uuid::Uuid::new_v4().to_string();
            if config.role_column {
                connection.execute(
                    "INSERT INTO processnode (pkid, name, nodeid, tkprocessnoderole, tknodeusage) VALUES (?1, ?2, ?3, ?4, ?5)",
                    (pkid, name, id, role, usage),
                )?;
            } else {
                connection.execute(
                    "INSERT INTO processnode (pkid, name, nodeid, tknodeusage) VALUES (?1, ?2, ?3, ?4)",
                    (pkid, name, id, usage),
                )?;
            }
        }
        for row in &config.rows {
            connection.execute(
                &format!("INSERT INTO {table} (pkid, cp_id) VALUES (?1, ?2)"),
                (&row.pkid, &row.cp_id),
            )?;
        }
        Ok(Self {
            connection: Mutex::new(connection),
            table,
        })
    }

    /// Reads rows.
    pub fn select(&self, statement: &Statement) -> Result<Rows, SqlError> {
        query(&self.connection.lock(), &statement.text).map_err(|error| informix(&error))
    }

    /// Executes an INSERT or DELETE; gives the number of rows.
    pub fn update(&self, statement: &Statement) -> Result<usize, SqlError> {
        self.connection
            .lock()
            .execute(&statement.text, ())
            .map_err(|error| informix(&error))
    }

    /// Any SQL that `SQLite` takes, and `newid()`: the way of a hand at the machine. Rows, or the number of rows changed.
    pub fn raw(&self, text: &str) -> Result<(Rows, usize), String> {
        let mut text = text.to_string();
        while let Some((before, behind)) = text.split_once("newid()") {
            text = format!("{before}'{}'{behind}", uuid::Uuid::new_v4());
        }
        let text = text.as_str();
        let connection = self.connection.lock();
        let before = connection.total_changes();
        let rows = if text.trim_start().to_ascii_lowercase().starts_with("select") {
            query(&connection, text).map_err(|error| error.to_string())?
        } else {
            connection.execute_batch(text).map_err(|error| error.to_string())?;
            Rows::new()
        };
        let changed = connection.total_changes() - before;
        Ok((rows, usize::try_from(changed).unwrap_or(usize::MAX)))
    }

    /// The rows of the component table in the order of their ids.
    pub fn component_rows(&self) -> Vec<Row> {
        let connection = self.connection.lock();
        let read = || -> Result<Vec<Row>, rusqlite::Error> {
            let mut statement =
                connection.prepare(&format!("SELECT pkid, cp_id FROM {} ORDER BY cp_id, pkid", self.table))?;
            let rows = statement.query_map((), |row| {
                Ok(Row {
                    pkid: row.get(0)?,
                    cp_id: row.get(1)?,
                })
            })?;
            rows.collect()
        };
        read().unwrap_or_default()
    }

    /// A copy of all tables.
    pub fn snapshot(&self) -> Result<Snapshot, testkit_base::Error> {
        let connection = self.connection.lock();
        let mut tables = Vec::new();
        let mut list = connection.prepare("SELECT name, sql FROM sqlite_master WHERE type = 'table'")?;
        let names = list
            .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<Vec<(String, String)>, _>>()?;
        for (name, create) in names {
            let mut statement = connection.prepare(&format!("SELECT * FROM {name}"))?;
            let width = statement.column_count();
            let rows = statement
                .query_map((), |row| (0..width).map(|column| row.get(column)).collect())?
                .collect::<Result<Vec<Vec<Value>>, _>>()?;
            tables.push(TableCopy { name, create, rows });
        }
        Ok(Snapshot(tables))
    }

    /// Becomes that copy.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), testkit_base::Error> {
        let old = self.snapshot()?;
        let mut connection = self.connection.lock();
        let transaction = connection.transaction()?;
        for table in &old.0 {
            transaction.execute_batch(&format!("DROP TABLE {}", table.name))?;
        }
        for table in &snapshot.0 {
            transaction.execute_batch(&table.create)?;
            for row in &table.rows {
                let marks = vec!["?"; row.len()].join(",");
                transaction.execute(
                    &format!("INSERT INTO {} VALUES ({marks})", table.name),
                    rusqlite::params_from_iter(row),
                )?;
            }
        }
        Ok(transaction.commit()?)
    }
}

fn query(connection: &Connection, text: &str) -> Result<Rows, rusqlite::Error> {
    let mut statement = connection.prepare(text)?;
    let columns: Vec<String> = statement.column_names().map(str::to_ascii_lowercase).collect();
    let rows = statement.query_map((), |row| {
        columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let value = match row.get(index)? {
                    Value::Null => None,
                    Value::Integer(number) => Some(number.to_string()),
                    Value::Real(number) => Some(number.to_string()),
                    Value::Text(text) => Some(text),
                    Value::Blob(bytes) => Some(HEXLOWER.encode(&bytes)),
                };
                Ok((column.clone(), value))
            })
            .collect()
    })?;
    rows.collect()
}

/// `SQLite`'s errors under Informix' numbers.
fn informix(error: &rusqlite::Error) -> SqlError {
    let text = error.to_string();
    let name = |marker: &str| {
        text.split_once(marker)
            .map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().to_string())
    };
    if let Some(table) = name("no such table: ") {
        return SqlError {
            code: -206,
            message: format!("The specified table ({table}) is not in the database."),
        };
    }
    for marker in ["no such column: ", "has no column named "] {
        if let Some(column) = name(marker) {
            return SqlError {
                code: -217,
                message: format!("Column ({column}) not found in any table in the query (or SLV is undefined)."),
            };
        }
    }
    if let Some(column) = name("NOT NULL constraint failed: ") {
        return SqlError {
            code: -391,
            message: format!("Cannot insert a null into column ({column})."),
        };
    }
    if text.contains("UNIQUE constraint failed") {
        return SqlError {
            code: -239,
            message: "Could not insert new row - duplicate value in a UNIQUE INDEX column (Unique Index:).".into(),
        };
    }
    SqlError {
        code: -201,
        message: format!("A syntax error has occurred. ({text})"),
    }
}
