/*
 * segment/dir.h: the directory itself: there, ours, and nobody else's.
 *
 * Thread: the owner of the directory. Blocking: all of it but the first two.
 */
#ifndef QL_SEGMENT_DIR_H
#define QL_SEGMENT_DIR_H

#include "segment/env.h"

const char *ql_dir_path(const struct ql_env *env, const char *name, char out[QL_PATH_MAX]);
/* A fault about a file in it; `rv` is a negative errno. */
enum q_err ql_dir_fail(const struct ql_env *env, const char *name, int rv, const char *what);

/* Find it, or make it when `create` says so. Q_OK, Q_NOT_FOUND, or a failure. */
Q_MUST_CHECK enum q_err ql_dir_open(struct ql_env *env, bool create);
/*
 * Before the first file is made: a directory with other people's files in it is left alone. `names`
 * are those of the logs. Q_OK; Q_NOT_FOUND: empty, and not to be filled; Q_E_FOREIGN; failures.
 */
Q_MUST_CHECK enum q_err ql_dir_check_ours(
    struct ql_env *env, const char *const *names, unsigned name_count, bool create);
/* Q_OK, Q_E_LOCKED after two seconds of trying, failures. `*ret_file` is the caller's in any case;
 * negative: none. */
Q_MUST_CHECK enum q_err ql_dir_lock(struct ql_env *env, int *ret_file);
/* Make the directory's own name durable. 0 or a negative errno. */
Q_MUST_CHECK int ql_dir_sync_parent(struct ql_env *env);

#endif /* QL_SEGMENT_DIR_H */
