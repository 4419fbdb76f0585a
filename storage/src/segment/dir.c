#include "segment/dir.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <qbase/text.h>

#include "segment/decisions.h"

enum {
    LOCK_TRIES = 40, /* after kill -9 the kernel may hold the ring's files for a moment */
    LOCK_PAUSE_MS = 50
};

struct listing {
    const char *const *names;
    unsigned name_count;
    bool has_super;
    bool has_log;
    char foreign[64];
};

static bool list_name(void *context, const char *name);

const char *
ql_dir_path(const struct ql_env *env, const char *name, char out[QL_PATH_MAX])
{
    (void)snprintf(out, QL_PATH_MAX, "%s/%s", env->path, name);
    return out;
}

enum q_err
ql_dir_fail(const struct ql_env *env, const char *name, int rv, const char *what)
{
    char path[QL_PATH_MAX];
    return Q_FAIL(
        q_err_from_errno(-rv), .path = ql_dir_path(env, name, path), .sys = -rv, .what = what);
}

enum q_err
ql_dir_open(struct ql_env *env, bool create)
{
    const struct qlog_io_table *table = env->io->table;
    /* A listing tells at once whether it is a directory that we may read. */
    int rv = table->sync_directory(env->io, env->path);
    if (rv == -ENOENT && create) {
        rv = table->make_directory(env->io, env->path);
        if (rv < 0)
            return Q_FAIL(
                q_err_from_errno(-rv), .path = env->path, .sys = -rv,
                .what = "create the data directory");
    }
    if (rv == -ENOENT)
        return Q_FAIL(
            Q_NOT_FOUND, .path = env->path, .what = "there is no such directory",
            .hint = "check the path");
    if (rv < 0)
        return Q_FAIL(
            q_err_from_errno(-rv), .path = env->path, .sys = -rv,
            .what = "open the data directory");
    return Q_OK;
}

enum q_err
ql_dir_check_ours(struct ql_env *env, const char *const *names, unsigned name_count, bool create)
{
    struct listing listing = { .names = names, .name_count = name_count };
    int rv = env->io->table->list(env->io, env->path, list_name, &listing);
    if (rv < 0) return ql_dir_fail(env, "", rv, "list the data directory");
    bool empty = !listing.has_super && !listing.has_log && listing.foreign[0] == '\0';
    if (empty && !create)
        return Q_FAIL(Q_NOT_FOUND, .path = env->path, .what = "there is no log in the directory");
    if (listing.has_super || listing.foreign[0] == '\0') return Q_OK;
    return Q_FAIL(
        Q_E_FOREIGN, .path = env->path,
        .what = q_text("the directory holds other files (\"%s\") and no store", listing.foreign),
        .hint = "use an empty or new directory");
}

static bool
list_name(void *context, const char *name)
{
    struct listing *listing = context;
    if (strcmp(name, "superblock") == 0) {
        listing->has_super = true;
        return true;
    }
    if (strcmp(name, "LOCK") == 0 || strcmp(name, QL_SET_ASIDE) == 0 ||
        strcmp(name, QL_RECOVERY_LOG) == 0)
        return true;
    for (unsigned i = 0; i < listing->name_count; i++)
        if (strcmp(name, listing->names[i]) == 0) {
            listing->has_log = true;
            return true;
        }
    (void)snprintf(listing->foreign, sizeof(listing->foreign), "%s", name);
    return true;
}

enum q_err
ql_dir_lock(struct ql_env *env, int *ret_file)
{
    char path[QL_PATH_MAX];
    ql_dir_path(env, "LOCK", path);
    const struct qlog_io_table *table = env->io->table;
    *ret_file = table->open(env->io, path, QLOG_IO_OPEN_CREATE);
    if (*ret_file < 0) return ql_dir_fail(env, "LOCK", *ret_file, "open the lock file");
    int rv = 0;
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        rv = table->lock(env->io, *ret_file);
        if (rv != -EWOULDBLOCK) break;
        (void)nanosleep(&(struct timespec){ .tv_nsec = LOCK_PAUSE_MS * Q_NS_PER_MS }, NULL);
    }
    if (rv == -EWOULDBLOCK)
        return Q_FAIL(
            Q_E_LOCKED, .path = path, .what = "another process has this data directory open",
            .hint = "stop that process, or use another --dir");
    if (rv < 0) return ql_dir_fail(env, "LOCK", rv, "lock the data directory");
    return Q_OK;
}

/*
 * Make the directory's own name durable. Not where it is made: a process that was killed in between
 * left a directory that looks like any other.
 */
int
ql_dir_sync_parent(struct ql_env *env)
{
    char parent[QL_PATH_MAX];
    (void)snprintf(parent, sizeof(parent), "%s", env->path);
    size_t size = strlen(parent);
    while (size > 1 && parent[size - 1] == '/')
        parent[--size] = '\0';
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        (void)snprintf(parent, sizeof(parent), ".");
    else
        slash[slash == parent ? 1 : 0] = '\0';
    int rv = env->io->table->sync_directory(env->io, parent);
    /* Somebody else made the directory for us, in a place that we may not read. */
    return rv == -EACCES ? 0 : rv;
}
