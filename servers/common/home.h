/*
 * common/home.h: the data directory of a node.
 *
 *   DIR/qmq-node   marker, node id, lock; names the process that holds it
 *   DIR/meta/      role meta: meta.db
 *   DIR/broker/    role broker: a store, which `qlog` can read
 *   DIR/delay/     role delay: a delay store
 *
 * A directory is taken only when it is absent, empty, or has our marker: nothing is ever written
 * beside files of somebody else. The lock is the kernel's and goes with the process, so that a
 * killed node leaves nothing to clean up.
 *
 * Looking comes before making, so that a start that fails for another reason (a port in use) leaves
 * no directory behind.
 *
 * Thread:   the main thread. Blocking: yes.
 * Failure:  Q_E_FOREIGN, Q_E_LOCKED, Q_E_NOT_DIRECTORY, Q_E_PERMISSION, Q_E_NO_SPACE, Q_E_VERSION,
 *           Q_E_IO; the fault has path and remedy.
 */
#ifndef SRV_COMMON_HOME_H
#define SRV_COMMON_HOME_H

#include <limits.h>

#include <qbase/err.h>

enum {
    SRV_NODE_ID_SIZE = 33
}; /* 32 hex digits and NUL */

struct srv_home {
    char path[PATH_MAX];
    char node_id[SRV_NODE_ID_SIZE];
    int marker_file; /* holds the lock; -1: not made yet */
    bool created;    /* by this start */
};

/* What is there? Locks an existing directory; changes nothing. Q_OK also when there is none. */
Q_MUST_CHECK enum q_err srv_home_look(const char *path, struct srv_home *ret_home);
/* After _look(): make directory and marker when they are missing. */
Q_MUST_CHECK enum q_err srv_home_make(struct srv_home *home);
/* Gives the lock back. */
void srv_home_close(struct srv_home *home);

/* Make DIR/NAME unless it is there; its path goes to `out`. */
Q_MUST_CHECK enum q_err srv_home_directory(
    const char *home, const char *name, char *out, size_t out_size);

#endif /* SRV_COMMON_HOME_H */
