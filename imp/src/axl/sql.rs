//! The SQL we send, Informix dialect; put together from validated ids only.

use xmpp_federation_core::ComponentId;

use crate::pkid::Pkid;

/// The table of S2S component ids, which has one of two names; the usual one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum Table {
    /// As in the English guide.
    Xmpps2snodes,
    /// As some systems have it.
    Xmpp2snodes,
}

impl Table {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

pub const TABLES: &str = "SELECT tabname FROM systables WHERE tabname IN ('xmpps2snodes', 'xmpp2snodes')";

pub const NODES: &str =
    "SELECT pkid, name, nodeid, tkprocessnoderole, tknodeusage FROM processnode WHERE tkprocessnoderole = 2";

/// The same where the column of the role is missing (9.x).
pub const NODES_WITHOUT_ROLE: &str = "SELECT pkid, name, nodeid, tknodeusage FROM processnode";

/// The nodes in their redundancy groups.
pub const REDUNDANCY: &str = "SELECT name, tkhaserverstate FROM enterprisenode";

pub fn rows(table: Table) -> String {
    format!("SELECT pkid, cp_id FROM {table}")
}

/// One new row; Informix takes one per statement.
pub fn insert(table: Table, pkid: Pkid, id: &ComponentId) -> String {
    format!("INSERT INTO {table} (pkid, cp_id) VALUES ('{pkid}', '{id}')")
}

/// One row of ours, which has to have our id still.
pub fn delete(table: Table, pkid: Pkid, id: &ComponentId) -> String {
    format!("DELETE FROM {table} WHERE pkid = '{pkid}' AND cp_id = '{id}'")
}
