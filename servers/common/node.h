/*
 * common/node.h: the life of a server process.
 *
 * A program names its roles; srv_node_main() does the rest: options, data directory, signals, start
 * of the roles in order, readiness, stop in reverse order, exit code. A role is a table of
 * functions, so that this file knows none of them.
 *
 *   look at the data directory -> probe the ports -> make the directory -> start roles
 *     -> all ready: banner or log line, ready file -> SIGTERM, SIGINT or a failure -> stop roles
 *
 * Thread:   the main thread, but for srv_node_ready() and srv_node_failed(): any.
 */
#ifndef SRV_COMMON_NODE_H
#define SRV_COMMON_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <qbase/err.h>

struct srv_node;

struct srv_role {
    const char *name;             /* "broker": as in --roles */
    unsigned port_offset;         /* from the port base */
    unsigned one_way_port_offset; /* 0: it takes no one-way messages */
    /* Comes back recovered and listening. A failure ends the process; its fault is told. */
    enum q_err (*start)(struct srv_node *node, void **ret_state);
    /* Q_OK, or why the stop was not clean. */
    enum q_err (*stop)(void *state);
    /* Where the role listens. */
    const char *(*url)(void *state);
};

struct srv_program {
    const char *name; /* "qmqd" */
    const char *what; /* one line for --help */
    const struct srv_role *const *roles;
    size_t role_count; /* more than one: --roles chooses */
};

enum {
    SRV_ROLES_MAX = 4
};

/* What a broker's store is told; 0 and NULL: the store's defaults. */
struct srv_storage {
    uint64_t segment_bytes;
    uint64_t memory_max;
    uint64_t group_bytes_max;
    uint64_t subjects_max;
    uint64_t retention_ns;
    uint64_t retention_bytes;
    uint64_t disk_soft_bytes;
    uint64_t disk_hard_bytes;
    const char *archive;
    bool keep_unconsumed;
    bool async; /* messages that ask for nothing are acknowledged, and seen, when written */
};

/* What a role may know of its node. */
struct srv_node_view {
    const char *node_id;
    const char *directory;
    const char *url;         /* to listen on, for this role */
    const char *one_way_url; /* the same for one-way messages; NULL: nowhere */
    const char *meta_url;    /* to register at */
    const char *broker_group;
    const char *cluster;
    const char *advertise; /* host for clients, or NULL: the one that is listened on */
    const char *program;   /* "qmqd 0.1.0" */
    const char *version;
    const char *roles; /* "meta,broker" */
    struct srv_storage storage;
};

/* Valid until the role's start has returned; its texts as long as the node. */
const struct srv_node_view *srv_node_view(const struct srv_node *node);

/* The role is recovered, listens, and is in the routes. Once for each role. */
void srv_node_ready(struct srv_node *node);
/* The process is to end because of `fault`. The first one counts. */
void srv_node_failed(struct srv_node *node, const struct q_fault *fault);
/* A line of the banner, during start: "io", "io_uring". */
void srv_node_tell(struct srv_node *node, const char *name, const char *text);

/* The whole life of a process; its exit code. */
int srv_node_main(const struct srv_program *program, int argc, char **argv);

#endif /* SRV_COMMON_NODE_H */
