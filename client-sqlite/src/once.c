/*
 * once.c: begin and end of messages as rows of one table.
 *
 * A row says of a key that it is done, or who is at it; and until when that counts. A row whose time
 * is over is as good as none. Every change is one statement, so it is a transaction of its own, and
 * SQLite's locks decide between processes.
 */
#include <qmq/sqlite.h>

#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <qbase/clock.h>
#include <qbase/err.h>

#define TABLE_DEFAULT "qmq_once"

enum {
    TABLE_MAX = 48,
    TEXT_MAX = 512,
    LEASE_MS_DEFAULT = 60 * 1000,
    BUSY_MS_DEFAULT = 5 * 1000,
    SWEEP_MS = 60 * 1000,
    SWEEP_FULL_MS = 1000, /* after a sweep that took as many rows as it may */
    SWEEP_ROWS = 1000,
};

static const uint64_t keep_ms_default = UINT64_C(7) * 24 * 3600 * 1000;

enum statement {
    STATEMENT_BEGIN,
    STATEMENT_LOOK,
    STATEMENT_DONE,
    STATEMENT_UNDO,
    STATEMENT_SWEEP,
    STATEMENT_COUNT,
};

/* ?1 key, ?2 until_ms, ?3 owner, ?4 now. @ is the table. */
static const char *const statement_texts[STATEMENT_COUNT] = {
    [STATEMENT_BEGIN] = "INSERT INTO @ (key, is_done, until_ms, owner) VALUES (?1, 0, ?2, ?3) "
                        "ON CONFLICT (key) DO UPDATE SET is_done = 0, until_ms = ?2, owner = ?3 "
                        "WHERE until_ms <= ?4",
    [STATEMENT_LOOK] = "SELECT is_done FROM @ WHERE key = ?1",
    /* What the handler's own transaction has noted is not written again. */
    [STATEMENT_DONE] = "INSERT INTO @ (key, is_done, until_ms, owner) VALUES (?1, 1, ?2, ?3) "
                       "ON CONFLICT (key) DO UPDATE SET is_done = 1, until_ms = ?2 "
                       "WHERE is_done = 0",
    [STATEMENT_UNDO] = "DELETE FROM @ WHERE key = ?1 AND is_done = 0 AND owner = ?3",
    [STATEMENT_SWEEP] = "DELETE FROM @ WHERE key IN "
                        "(SELECT key FROM @ WHERE until_ms <= ?4 ORDER BY until_ms LIMIT 1000)",
};

/* In the handler's transaction: only while it is ours to end. */
static const char done_with_text[] =
    "INSERT INTO @ (key, is_done, until_ms, owner) VALUES (?1, 1, ?2, ?3) "
    "ON CONFLICT (key) DO UPDATE SET is_done = 1, until_ms = ?2 WHERE is_done = 0 AND owner = ?3";

static const char settings_text[] = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;";
static const char schema_text[] =
    "CREATE TABLE IF NOT EXISTS @ (key BLOB PRIMARY KEY, is_done INTEGER NOT NULL,"
    " until_ms INTEGER NOT NULL, owner INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS @_until ON @ (until_ms);";

struct sqlite_once {
    struct qmq_once once; /* its context is this */
    char table[TABLE_MAX + 1];
    uint64_t keep_ms;
    uint64_t lease_ms;
    int64_t owner; /* who is at it: a random number of this open */

    pthread_mutex_t lock; /* guards the connection */
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    uint64_t sweep_ms; /* when to sweep next */
};

static enum q_err once_open(
    const char *path, const struct qmq_sqlite_once_options *options, struct qmq_once **ret_once);
static enum q_err check_table(const char *table);
static enum q_err open_database(struct sqlite_once *self, const char *path, uint32_t busy_ms);
static enum q_err run_text(struct sqlite_once *self, const char *format);
static enum q_err prepare(
    sqlite3 *database, const char *format, const char *table, sqlite3_stmt **ret_statement);
static void name_table(const char *format, const char *table, char *out);
static enum qmq_once_state begin(void *context, struct qmq_bytes key);
static enum q_err try_begin(
    struct sqlite_once *self, struct qmq_bytes key, enum qmq_once_state *ret_state);
static int end(void *context, struct qmq_bytes key, bool is_done);
static enum q_err done_with(struct sqlite_once *self, sqlite3 *database, struct qmq_bytes key);
static enum q_err sweep(struct sqlite_once *self, uint64_t now_ms);
static enum q_err run(
    struct sqlite_once *self, enum statement statement, struct qmq_bytes key, uint64_t until_ms);
static void bind(
    const struct sqlite_once *self,
    sqlite3_stmt *statement,
    struct qmq_bytes key,
    uint64_t until_ms,
    uint64_t now_ms);
static enum q_err failed(sqlite3 *database, const char *what);
static uint64_t wall_ms(void);

int
qmq_sqlite_once_open(
    const char *path, const struct qmq_sqlite_once_options *options, struct qmq_once **ret_once)
{
    static const struct qmq_sqlite_once_options defaults;
    return once_open(path, options ? options : &defaults, ret_once);
}

static enum q_err
once_open(
    const char *path, const struct qmq_sqlite_once_options *options, struct qmq_once **ret_once)
{
    const char *table = options->table ? options->table : TABLE_DEFAULT;
    Q_TRY(check_table(table));

    struct sqlite_once *self = calloc(1, sizeof(*self));
    if (!self) return Q_FAIL(Q_E_NOMEM);
    self->once = (struct qmq_once){ .context = self, .begin = begin, .end = end };
    memcpy(self->table, table, strlen(table) + 1);
    self->keep_ms = options->keep_ms ? options->keep_ms : keep_ms_default;
    self->lease_ms = options->lease_ms ? options->lease_ms : LEASE_MS_DEFAULT;
    pthread_mutex_init(&self->lock, NULL);
    enum q_err err = Q_OK;
    if (getrandom(&self->owner, sizeof(self->owner), 0) != (ssize_t)sizeof(self->owner))
        err = Q_FAIL(Q_E_IO, .sys = errno, .what = "no random number");
    if (err == Q_OK)
        err = open_database(self, path, options->busy_ms ? options->busy_ms : BUSY_MS_DEFAULT);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        qmq_sqlite_once_close(&self->once);
        q_fault_adopt(&fault);
        return err;
    }
    *ret_once = &self->once;
    return Q_OK;
}

/* It becomes part of statements. */
static enum q_err
check_table(const char *table)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    size_t size = strlen(table);
    if (size > 0 && size <= TABLE_MAX && strchr(letters, table[0]) && strspn(table, rest) == size)
        return Q_OK;
    return Q_FAIL(
        Q_INVALID, .what = q_text("\"%.60s\" can't be the name of the table", table),
        .hint = "a letter, then letters, digits and '_', at most 48 bytes");
}

static enum q_err
open_database(struct sqlite_once *self, const char *path, uint32_t busy_ms)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &self->database, flags, NULL) != SQLITE_OK) {
        int code = self->database ? sqlite3_extended_errcode(self->database) : SQLITE_NOMEM;
        int sys = self->database ? sqlite3_system_errno(self->database) : 0;
        return Q_FAIL(
            sys ? q_err_from_errno(sys) : Q_E_IO, .path = path, .sys = sys,
            .what = q_text("the database can't be opened: %s", sqlite3_errstr(code)));
    }
    (void)sqlite3_busy_timeout(self->database, (int)(busy_ms & INT32_MAX));
    Q_TRY(run_text(self, settings_text));
    Q_TRY(run_text(self, schema_text));
    for (int index = 0; index < STATEMENT_COUNT; index++)
        Q_TRY(
            prepare(self->database, statement_texts[index], self->table, &self->statements[index]));
    return Q_OK;
}

static enum q_err
run_text(struct sqlite_once *self, const char *format)
{
    char text[TEXT_MAX];
    name_table(format, self->table, text);
    bool is_done = sqlite3_exec(self->database, text, NULL, NULL, NULL) == SQLITE_OK;
    return is_done ? Q_OK : failed(self->database, "the table can't be made");
}

static enum q_err
prepare(sqlite3 *database, const char *format, const char *table, sqlite3_stmt **ret_statement)
{
    char text[TEXT_MAX];
    name_table(format, table, text);
    bool is_done =
        sqlite3_prepare_v3(database, text, -1, SQLITE_PREPARE_PERSISTENT, ret_statement, NULL) ==
        SQLITE_OK;
    return is_done ? Q_OK : failed(database, "a statement can't be prepared");
}

/* TEXT_MAX is enough: thrice TABLE_MAX and the longest of our texts. */
static void
name_table(const char *format, const char *table, char *out)
{
    for (; *format; format++) {
        if (*format == '@')
            out = stpcpy(out, table);
        else
            *out++ = *format;
    }
    *out = '\0';
}

void
qmq_sqlite_once_close(struct qmq_once *once)
{
    if (!once) return;
    struct sqlite_once *self = once->context;
    for (int index = 0; index < STATEMENT_COUNT; index++)
        (void)sqlite3_finalize(self->statements[index]);
    (void)sqlite3_close(self->database);
    pthread_mutex_destroy(&self->lock);
    free(self);
}

static enum qmq_once_state
begin(void *context, struct qmq_bytes key)
{
    struct sqlite_once *self = context;
    enum qmq_once_state state = QMQ_ONCE_FAILED;

    pthread_mutex_lock(&self->lock);
    enum q_err err = try_begin(self, key, &state);
    pthread_mutex_unlock(&self->lock);
    return err == Q_OK ? state : QMQ_ONCE_FAILED;
}

static enum q_err
try_begin(struct sqlite_once *self, struct qmq_bytes key, enum qmq_once_state *ret_state)
{
    uint64_t now_ms = wall_ms();
    if (now_ms >= self->sweep_ms) Q_TRY(sweep(self, now_ms));

    Q_TRY(run(self, STATEMENT_BEGIN, key, now_ms + self->lease_ms));
    if (sqlite3_changes(self->database) == 1) {
        *ret_state = QMQ_ONCE_NEW;
        return Q_OK;
    }
    sqlite3_stmt *look = self->statements[STATEMENT_LOOK];
    bind(self, look, key, 0, 0);
    int code = sqlite3_step(look);
    /* No row any more: whoever was at it has just failed. It comes again. */
    bool is_done = code == SQLITE_ROW && sqlite3_column_int(look, 0) != 0;
    *ret_state = is_done ? QMQ_ONCE_DONE : QMQ_ONCE_BUSY;
    (void)sqlite3_reset(look);
    if (code == SQLITE_ROW || code == SQLITE_DONE) return Q_OK;
    return failed(self->database, "look up what was handled");
}

static int
end(void *context, struct qmq_bytes key, bool is_done)
{
    struct sqlite_once *self = context;

    pthread_mutex_lock(&self->lock);
    enum q_err err =
        run(self, is_done ? STATEMENT_DONE : STATEMENT_UNDO, key, wall_ms() + self->keep_ms);
    pthread_mutex_unlock(&self->lock);
    return err;
}

int
qmq_sqlite_once_done(struct qmq_once *once, struct sqlite3 *database, struct qmq_bytes key)
{
    return done_with(once->context, database, key);
}

/* Without the lock: the connection is the caller's, and may wait for ours. */
static enum q_err
done_with(struct sqlite_once *self, sqlite3 *database, struct qmq_bytes key)
{
    if (sqlite3_get_autocommit(database))
        return Q_FAIL(
            Q_INVALID, .what = "the connection is in no transaction",
            .hint = "BEGIN IMMEDIATE first");
    sqlite3_stmt *statement;
    Q_TRY(prepare(database, done_with_text, self->table, &statement));
    bind(self, statement, key, wall_ms() + self->keep_ms, 0);
    int code = sqlite3_step(statement);
    enum q_err err = code == SQLITE_DONE ? Q_OK : failed(database, "note what was handled");
    if (err == Q_OK && sqlite3_changes(database) == 0)
        err = Q_FAIL(
            Q_EXPIRED, .what = "the message was handled before, or another handler is at it",
            .hint = "roll back");
    (void)sqlite3_finalize(statement);
    return err;
}

static enum q_err
sweep(struct sqlite_once *self, uint64_t now_ms)
{
    static const struct qmq_bytes none;
    Q_TRY(run(self, STATEMENT_SWEEP, none, 0));
    bool is_more = sqlite3_changes(self->database) == SWEEP_ROWS;
    self->sweep_ms = now_ms + (is_more ? SWEEP_FULL_MS : SWEEP_MS);
    return Q_OK;
}

static enum q_err
run(struct sqlite_once *self, enum statement statement, struct qmq_bytes key, uint64_t until_ms)
{
    sqlite3_stmt *prepared = self->statements[statement];
    bind(self, prepared, key, until_ms, wall_ms());
    int code = sqlite3_step(prepared);
    enum q_err err =
        code == SQLITE_DONE ? Q_OK : failed(self->database, "note what is being handled");
    (void)sqlite3_reset(prepared);
    return err;
}

/* Parameters that a statement does not have are refused, which does no harm. */
static void
bind(
    const struct sqlite_once *self,
    sqlite3_stmt *statement,
    struct qmq_bytes key,
    uint64_t until_ms,
    uint64_t now_ms)
{
    (void)sqlite3_bind_blob64(statement, 1, key.size > 0 ? key.data : "", key.size, SQLITE_STATIC);
    (void)sqlite3_bind_int64(statement, 2, (sqlite3_int64)until_ms);
    (void)sqlite3_bind_int64(statement, 3, self->owner);
    (void)sqlite3_bind_int64(statement, 4, (sqlite3_int64)now_ms);
}

static enum q_err
failed(sqlite3 *database, const char *what)
{
    int code = sqlite3_extended_errcode(database);
    int sys = 0;
    enum q_err err = Q_E_IO;
    switch (code & 0xff) {
    case SQLITE_FULL:
        err = Q_E_NO_SPACE;
        break;
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_READONLY:
        err = Q_E_PERMISSION;
        break;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        err = Q_E_CORRUPT;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        err = Q_BUSY;
        break;
    case SQLITE_NOMEM:
        err = Q_E_NOMEM;
        break;
    default:
        sys = sqlite3_system_errno(database);
        if (sys) err = q_err_from_errno(sys);
        break;
    }
    return Q_FAIL(
        err, .path = sqlite3_db_filename(database, "main"), .sys = sys,
        .what = q_text("%s: SQLite says: %s", what, sqlite3_errmsg(database)),
        .hint = err == Q_BUSY ? "another writer keeps its transaction open" : "look at the file");
}

static uint64_t
wall_ms(void)
{
    return q_clock_wall_ms(q_clock_system());
}

struct qmq_error
qmq_sqlite_last_error(void)
{
    static _Thread_local char message[Q_FAULT_LINE_MAX];
    const struct q_fault *fault = q_fault_last();
    return (struct qmq_error){
        .code = fault->err,
        .name = q_err_name(fault->err),
        .message = q_fault_format(fault, message, sizeof(message)),
        .hint = fault->hint[0] != '\0' ? fault->hint : q_err_hint(fault->err),
        .retryable = q_err_retryable(fault->err),
    };
}
