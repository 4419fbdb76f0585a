/*
 * meta/store.h: what meta keeps, behind five calls: get, compare-and-set, lease, watch, list.
 *
 * Keys are paths ("nodes/7b1f…"), values are bytes. Each change of a value gives it a new version.
 * A lease is a sign of life: it says nothing about values, is kept in memory, and runs out by
 * itself. Nothing of meta knows what stands behind the calls: SQLite in the same process (the
 * default), later a store of several machines.
 *
 * Thread:   one: whoever opened it.
 * Blocking: all calls may (a flush); none is made on the transport's threads.
 * Memory:   `ret_value` and what callbacks are given is the store's, until the next call.
 * Failure:  Q_E_IO, Q_E_NO_SPACE, Q_E_CORRUPT, Q_E_PERMISSION, Q_E_NOMEM, with the path in the
 *           fault. The store is as it was before the call.
 */
#ifndef META_STORE_H
#define META_STORE_H

#include <qbase/bytes.h>
#include <qbase/clock.h>
#include <qbase/err.h>

struct meta_store;

enum {
    META_KEY_MAX = 400,
    META_VALUE_MAX = 64 * 1024
};

enum meta_change {
    META_SET,     /* a value was set */
    META_ALIVE,   /* a lease began, or began again after it had run out */
    META_EXPIRED, /* a lease ran out */
};

/* `value` and `version` are set for META_SET. Must not call the store. */
typedef void meta_watch_fn(
    void *context, enum meta_change change, const char *key, struct q_bytes value);
/* False ends the listing. Must not call the store. */
typedef bool meta_list_fn(void *context, const char *key, struct q_bytes value, uint64_t version);

struct meta_store_table {
    enum q_err (*get)(
        struct meta_store *store,
        const char *key,
        struct q_bytes *ret_value,
        uint64_t *ret_version);
    enum q_err (*compare_and_set)(
        struct meta_store *store,
        const char *key,
        uint64_t expected_version,
        struct q_bytes value,
        uint64_t *ret_version);
    enum q_err (*lease)(struct meta_store *store, const char *key, uint64_t ttl_ns);
    enum q_err (*watch)(
        struct meta_store *store, const char *prefix, meta_watch_fn *on_change, void *context);
    enum q_err (*list)(
        struct meta_store *store, const char *prefix, meta_list_fn *each, void *context);
    uint64_t (*turn)(struct meta_store *store);
    void (*close)(struct meta_store *store);
};

struct meta_store {
    const struct meta_store_table *table;
};

/* Q_OK or Q_NOT_FOUND. */
Q_MUST_CHECK static inline enum q_err
meta_get(
    struct meta_store *store, const char *key, struct q_bytes *ret_value, uint64_t *ret_version)
{
    return store->table->get(store, key, ret_value, ret_version);
}

/* Q_OK: durable. Q_CONFLICT: the version is not `expected_version` (0: there is no value). */
Q_MUST_CHECK static inline enum q_err
meta_compare_and_set(
    struct meta_store *store,
    const char *key,
    uint64_t expected_version,
    struct q_bytes value,
    uint64_t *ret_version)
{
    return store->table->compare_and_set(store, key, expected_version, value, ret_version);
}

/* Begin or renew; `ttl_ns` from now. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK static inline enum q_err
meta_lease(struct meta_store *store, const char *key, uint64_t ttl_ns)
{
    return store->table->lease(store, key, ttl_ns);
}

/* `on_change` is called for keys with the prefix, from inside the other calls, until close. */
Q_MUST_CHECK static inline enum q_err
meta_watch(struct meta_store *store, const char *prefix, meta_watch_fn *on_change, void *context)
{
    return store->table->watch(store, prefix, on_change, context);
}

/* Values whose keys have the prefix, in order of keys. */
Q_MUST_CHECK static inline enum q_err
meta_list(struct meta_store *store, const char *prefix, meta_list_fn *each, void *context)
{
    return store->table->list(store, prefix, each, context);
}

/* Let leases run out. Returns the monotonic time at which to call again; UINT64_MAX: any. */
static inline uint64_t
meta_turn(struct meta_store *store)
{
    return store->table->turn(store);
}

/* NULL is fine. */
static inline void
meta_close(struct meta_store *store)
{
    if (store) store->table->close(store);
}

/*
 * A store in an SQLite database.
 *
 * Q_OK, Q_E_FOREIGN (another program's database), Q_E_LOCKED, Q_E_VERSION, and the failures above.
 */
Q_MUST_CHECK enum q_err meta_sqlite_open(
    const char *path, const struct q_clock *clock, struct meta_store **ret_store);

#endif /* META_STORE_H */
