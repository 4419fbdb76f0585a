/*
 * sqlite.c: the five calls over one SQLite database.
 *
 * One table of entries and one number, the newest version. A compare-and-set is one transaction,
 * flushed before it returns (write-ahead log, synchronous = FULL). The connection locks the file
 * for itself: two processes that both think they are the meta of a directory would be the worst.
 * Leases and watchers live in memory; a restart loses them, and nodes tell of themselves again
 * within seconds.
 */
#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "meta/leases.h"
#include "meta/store.h"

enum {
    APPLICATION_ID = 0x514d514d, /* "QMQM", in the file's head */
    FORMAT = 1,
    WATCHERS_MAX = 4,
};

enum statement {
    STATEMENT_BEGIN,
    STATEMENT_COMMIT,
    STATEMENT_ROLLBACK,
    STATEMENT_GET,
    STATEMENT_SET,
    STATEMENT_NEXT_VERSION,
    STATEMENT_LIST,
    STATEMENT_COUNT,
};

static const char *const statement_texts[STATEMENT_COUNT] = {
    [STATEMENT_BEGIN] = "BEGIN IMMEDIATE",
    [STATEMENT_COMMIT] = "COMMIT",
    [STATEMENT_ROLLBACK] = "ROLLBACK",
    [STATEMENT_GET] = "SELECT value, version FROM entry WHERE key = ?1",
    [STATEMENT_SET] = "INSERT INTO entry (key, value, version) VALUES (?1, ?2, ?3) "
                      "ON CONFLICT (key) DO UPDATE SET value = ?2, version = ?3",
    [STATEMENT_NEXT_VERSION] = "UPDATE newest SET version = version + 1 RETURNING version",
    /* The range [prefix, prefix + 0xff): keys are ASCII. */
    [STATEMENT_LIST] = "SELECT key, value, version FROM entry "
                       "WHERE key >= ?1 AND key < ?1 || char(255) ORDER BY key",
};

static const char settings[] =
    "PRAGMA locking_mode = EXCLUSIVE;"
    "PRAGMA journal_mode = WAL;"
    "PRAGMA synchronous = FULL;"
    "PRAGMA cache_size = -512;" /* KiB: routes are read by key, one page each */
    "PRAGMA journal_size_limit = 1048576;";

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE entry (key TEXT PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL)"
    " WITHOUT ROWID;"
    "CREATE TABLE newest (version INTEGER NOT NULL);"
    "INSERT INTO newest VALUES (0);"
    "PRAGMA application_id = 1364021581;"
    "PRAGMA user_version = 1;"
    "COMMIT;";
_Static_assert(APPLICATION_ID == 1364021581, "the schema spells the same number");

struct watcher {
    const char *prefix;
    meta_watch_fn *on_change;
    void *context;
};

struct sqlite_store {
    struct meta_store store;
    const struct q_clock *clock;
    sqlite3 *database;
    sqlite3_stmt *statements[STATEMENT_COUNT];
    struct meta_leases leases;
    struct watcher watchers[WATCHERS_MAX];
    size_t watcher_count;
    uint8_t *value; /* what get gave last */
    size_t value_room;
};

static enum q_err open_database(struct sqlite_store *store, const char *path);
static enum q_err check_origin(struct sqlite_store *store, const char *path);
static enum q_err read_pragma(struct sqlite_store *store, const char *text, int *ret_value);
static enum q_err keep_value(struct sqlite_store *store, const void *value, size_t size);
static enum q_err set_in_transaction(
    struct sqlite_store *store,
    const char *key,
    uint64_t expected_version,
    struct q_bytes value,
    uint64_t *ret_version);
static void tell(
    struct sqlite_store *store, enum meta_change change, const char *key, struct q_bytes value);
static enum q_err run(struct sqlite_store *store, enum statement statement);
static void bind_key(sqlite3_stmt *statement, const char *key);
static enum q_err failed(struct sqlite_store *store, const char *what);
static enum q_err failed_as(int code, int error, const char *path, const char *what);

static const struct meta_store_table sqlite_table;

static struct sqlite_store *
sqlite_store_of(struct meta_store *store)
{
    return q_container_of(store, struct sqlite_store, store);
}

enum q_err
meta_sqlite_open(const char *path, const struct q_clock *clock, struct meta_store **ret_store)
{
    struct sqlite_store *store = calloc(1, sizeof(*store));
    if (!store) return Q_FAIL(Q_E_NOMEM);
    store->store.table = &sqlite_table;
    store->clock = clock;
    meta_leases_init(&store->leases);

    enum q_err err = open_database(store, path);
    for (int i = 0; err == Q_OK && i < STATEMENT_COUNT; i++) {
        int code = sqlite3_prepare_v3(
            store->database, statement_texts[i], -1, SQLITE_PREPARE_PERSISTENT,
            &store->statements[i], NULL);
        if (code != SQLITE_OK) err = failed(store, "a statement can't be prepared");
    }
    if (err != Q_OK) {
        meta_close(&store->store);
        return err;
    }
    *ret_store = &store->store;
    return Q_OK;
}

static enum q_err
open_database(struct sqlite_store *store, const char *path)
{
    /* SQLite has one answer for whatever it can't open. */
    struct stat about;
    if (stat(path, &about) == 0 && S_ISDIR(about.st_mode))
        return Q_FAIL(
            Q_E_IO, .path = path, .sys = EISDIR, .what = "meta's database can't be opened",
            .hint = "remove the directory that stands in the file's place");

    int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int code = sqlite3_open_v2(path, &store->database, flags, NULL);
    if (code != SQLITE_OK) {
        int error = store->database ? sqlite3_system_errno(store->database) : 0;
        return failed_as(code, error, path, "meta's database can't be opened");
    }
    /* A key or two thousand: SQLite's reserve for larger ones is not needed. */
    (void)sqlite3_db_config(store->database, SQLITE_DBCONFIG_LOOKASIDE, NULL, 0, 0);

    /* The origin is checked before a setting could change a stranger's file. */
    Q_TRY(check_origin(store, path));
    if (sqlite3_exec(store->database, settings, NULL, NULL, NULL) != SQLITE_OK)
        return failed(store, "meta's database can't be set up");

    int format = 0;
    Q_TRY(read_pragma(store, "PRAGMA user_version", &format));
    if (format == 0 && sqlite3_exec(store->database, schema, NULL, NULL, NULL) != SQLITE_OK)
        return failed(store, "meta's tables can't be made");
    return Q_OK;
}

static enum q_err
check_origin(struct sqlite_store *store, const char *path)
{
    int application = 0;
    int format = 0;
    int pages = 0;
    Q_TRY(read_pragma(store, "PRAGMA application_id", &application));
    Q_TRY(read_pragma(store, "PRAGMA user_version", &format));
    Q_TRY(read_pragma(store, "PRAGMA page_count", &pages));
    if (pages == 0) return Q_OK;
    if (application != APPLICATION_ID)
        return Q_FAIL(
            Q_E_FOREIGN, .path = path, .what = "the database is not one of qmq's meta",
            .hint = "name another directory with --dir");
    if (format != FORMAT)
        return Q_FAIL(
            Q_E_VERSION, .path = path,
            .what = q_text("meta's database has format %d, this program knows %d", format, FORMAT));
    return Q_OK;
}

static enum q_err
read_pragma(struct sqlite_store *store, const char *text, int *ret_value)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(store->database, text, -1, &statement, NULL) != SQLITE_OK)
        return failed(store, "meta's database can't be read");
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW) *ret_value = sqlite3_column_int(statement, 0);
    if (sqlite3_finalize(statement) != SQLITE_OK || code != SQLITE_ROW)
        return failed(store, "meta's database can't be read");
    return Q_OK;
}

static void
sqlite_close(struct meta_store *meta_store)
{
    struct sqlite_store *store = sqlite_store_of(meta_store);
    for (int i = 0; i < STATEMENT_COUNT; i++)
        sqlite3_finalize(store->statements[i]);
    sqlite3_close(store->database);
    meta_leases_fini(&store->leases);
    free(store->value);
    free(store);
}

static enum q_err
sqlite_get(
    struct meta_store *meta_store,
    const char *key,
    struct q_bytes *ret_value,
    uint64_t *ret_version)
{
    struct sqlite_store *store = sqlite_store_of(meta_store);
    sqlite3_stmt *statement = store->statements[STATEMENT_GET];
    bind_key(statement, key);

    enum q_err err = Q_NOT_FOUND;
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        size_t size = (size_t)sqlite3_column_bytes(statement, 0);
        err = keep_value(store, sqlite3_column_blob(statement, 0), size);
        if (err == Q_OK) {
            *ret_value = q_bytes_from(store->value, size);
            *ret_version = (uint64_t)sqlite3_column_int64(statement, 1);
        }
    } else if (code != SQLITE_DONE) {
        err = failed(store, "meta's database can't be read");
    }
    sqlite3_reset(statement);
    return err;
}

static enum q_err
keep_value(struct sqlite_store *store, const void *value, size_t size)
{
    if (size > store->value_room) {
        uint8_t *larger = realloc(store->value, size);
        if (!larger) return Q_FAIL(Q_E_NOMEM);
        store->value = larger;
        store->value_room = size;
    }
    if (size > 0) memcpy(store->value, value, size);
    return Q_OK;
}

static enum q_err
sqlite_compare_and_set(
    struct meta_store *meta_store,
    const char *key,
    uint64_t expected_version,
    struct q_bytes value,
    uint64_t *ret_version)
{
    struct sqlite_store *store = sqlite_store_of(meta_store);
    if (strlen(key) > META_KEY_MAX || value.size > META_VALUE_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("a key of %zu, a value of %zu bytes", strlen(key), value.size));

    Q_TRY(run(store, STATEMENT_BEGIN));
    enum q_err err = set_in_transaction(store, key, expected_version, value, ret_version);
    if (err == Q_OK) err = run(store, STATEMENT_COMMIT);
    if (err != Q_OK) {
        /* A failed commit may have rolled back by itself; then there is nothing to undo. */
        struct q_fault fault = *q_fault_last();
        if (!sqlite3_get_autocommit(store->database)) {
            enum q_err undo_err = run(store, STATEMENT_ROLLBACK);
            (void)undo_err; /* the first failure is the one to tell */
        }
        q_fault_adopt(&fault);
        return err;
    }
    tell(store, META_SET, key, value);
    return Q_OK;
}

static enum q_err
set_in_transaction(
    struct sqlite_store *store,
    const char *key,
    uint64_t expected_version,
    struct q_bytes value,
    uint64_t *ret_version)
{
    struct q_bytes old_value;
    uint64_t version = 0;
    enum q_err err = sqlite_get(&store->store, key, &old_value, &version);
    if (err != Q_OK && err != Q_NOT_FOUND) return err;
    if (version != expected_version)
        return Q_FAIL(
            Q_CONFLICT, .what = q_text(
                            "%s has version %llu, not %llu", key, (unsigned long long)version,
                            (unsigned long long)expected_version));

    sqlite3_stmt *next = store->statements[STATEMENT_NEXT_VERSION];
    if (sqlite3_step(next) != SQLITE_ROW) {
        err = failed(store, "meta's database can't be written");
        sqlite3_reset(next);
        return err;
    }
    sqlite3_int64 new_version = sqlite3_column_int64(next, 0);
    sqlite3_reset(next);

    sqlite3_stmt *set = store->statements[STATEMENT_SET];
    bind_key(set, key);
    /* An empty blob, not NULL, for an empty value. */
    sqlite3_bind_blob(
        set, 2, value.size ? (const void *)value.data : "", (int)value.size, SQLITE_STATIC);
    sqlite3_bind_int64(set, 3, new_version);
    Q_TRY(run(store, STATEMENT_SET));
    *ret_version = (uint64_t)new_version;
    return Q_OK;
}

static enum q_err
sqlite_lease(struct meta_store *meta_store, const char *key, uint64_t ttl_ns)
{
    struct sqlite_store *store = sqlite_store_of(meta_store);
    uint64_t until_ns = q_clock_monotonic_ns(store->clock) + ttl_ns;
    bool began;
    Q_TRY(meta_leases_renew(&store->leases, key, until_ns, &began));
    if (began) tell(store, META_ALIVE, key, (struct q_bytes){ 0 });
    return Q_OK;
}

static enum q_err
sqlite_watch(
    struct meta_store *meta_store, const char *prefix, meta_watch_fn *on_change, void *context)
{
    struct sqlite_store *store = sqlite_store_of(meta_store);
    if (store->watcher_count == WATCHERS_MAX)
        return Q_FAIL(Q_BUSY, .what = "too many watchers of meta's store");
    store->watchers[store->watcher_count++] = (struct watcher){ prefix, on_change, context };
    return Q_OK;
}

static enum q_err
sqlite_list(struct meta_store *meta_store, const char *prefix, meta_list_fn *each, void *context)
{
    struct sqlite_store *store = sqlite_store_of(meta_store);
    sqlite3_stmt *statement = store->statements[STATEMENT_LIST];
    bind_key(statement, prefix);

    enum q_err err = Q_OK;
    bool go_on = true;
    while (go_on && err == Q_OK) {
        int code = sqlite3_step(statement);
        if (code == SQLITE_DONE) break;
        if (code != SQLITE_ROW) {
            err = failed(store, "meta's database can't be read");
            break;
        }
        struct q_bytes value = q_bytes_from(
            sqlite3_column_blob(statement, 1), (size_t)sqlite3_column_bytes(statement, 1));
        go_on = each(
            context, (const char *)sqlite3_column_text(statement, 0), value,
            (uint64_t)sqlite3_column_int64(statement, 2));
    }
    sqlite3_reset(statement);
    return err;
}

static uint64_t
sqlite_turn(struct meta_store *meta_store)
{
    struct sqlite_store *store = sqlite_store_of(meta_store);
    uint64_t now_ns = q_clock_monotonic_ns(store->clock);
    const char *key;
    while ((key = meta_leases_expire_one(&store->leases, now_ns)))
        tell(store, META_EXPIRED, key, (struct q_bytes){ 0 });
    return meta_leases_next_ns(&store->leases);
}

static void
tell(struct sqlite_store *store, enum meta_change change, const char *key, struct q_bytes value)
{
    for (size_t i = 0; i < store->watcher_count; i++) {
        const struct watcher *watcher = &store->watchers[i];
        if (strncmp(key, watcher->prefix, strlen(watcher->prefix)) == 0)
            watcher->on_change(watcher->context, change, key, value);
    }
}

/* A statement without rows. */
static enum q_err
run(struct sqlite_store *store, enum statement statement)
{
    sqlite3_stmt *prepared = store->statements[statement];
    enum q_err err = Q_OK;
    if (sqlite3_step(prepared) != SQLITE_DONE)
        err = failed(store, "meta's database can't be written");
    sqlite3_reset(prepared);
    return err;
}

static void
bind_key(sqlite3_stmt *statement, const char *key)
{
    sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
}

static enum q_err
failed(struct sqlite_store *store, const char *what)
{
    return failed_as(
        sqlite3_extended_errcode(store->database), sqlite3_system_errno(store->database),
        sqlite3_db_filename(store->database, "main"), what);
}

static enum q_err
failed_as(int code, int error, const char *path, const char *what)
{
    enum q_err err = Q_E_IO;
    switch (code & 0xff) {
    case SQLITE_FULL:
        err = Q_E_NO_SPACE;
        break;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_AUTH:
        err = Q_E_PERMISSION;
        break;
    case SQLITE_NOTADB:
        err = Q_E_FOREIGN;
        break;
    case SQLITE_CORRUPT:
        err = Q_E_CORRUPT;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        err = Q_E_LOCKED;
        break;
    case SQLITE_NOMEM:
        err = Q_E_NOMEM;
        break;
    default:
        if (error) err = q_err_from_errno(error);
        break;
    }
    return Q_FAIL(
        err, .path = path, .what = q_text("%s: SQLite says: %s", what, sqlite3_errstr(code)));
}

static const struct meta_store_table sqlite_table = {
    .get = sqlite_get,
    .compare_and_set = sqlite_compare_and_set,
    .lease = sqlite_lease,
    .watch = sqlite_watch,
    .list = sqlite_list,
    .turn = sqlite_turn,
    .close = sqlite_close,
};
