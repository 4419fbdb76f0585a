/*
 * common/options.h: the command line of a server, checked as a whole before anything is touched.
 *
 * Thread: the main thread. Memory: texts point into argv or are static.
 * Failure: Q_INVALID; the fault's text is one line that names option, cause and remedy.
 */
#ifndef SRV_COMMON_OPTIONS_H
#define SRV_COMMON_OPTIONS_H

#include "common/log.h"
#include "common/node.h"

enum {
    SRV_PORT_BASE_DEFAULT = 20880
};

struct srv_options {
    const struct srv_role *roles[SRV_ROLES_MAX]; /* in the order of their start */
    size_t role_count;
    const char *directory;
    uint64_t port_base; /* 0: any free ports */
    const char *listen; /* an IP address */
    const char *advertise;
    const char *one_way;  /* a url to take one-way messages at; "none"; NULL: by the port base */
    const char *meta_url; /* NULL: the node's own, else the port base's */
    const char *broker_group; /* NULL: made from the node id */
    const char *cluster;
    const char *ready_file;
    struct srv_storage storage;
    enum srv_level log_level;
    bool dev;
};

/* Q_OK, Q_END (help or version was asked for and printed), Q_INVALID. */
Q_MUST_CHECK enum q_err srv_options_parse(
    const struct srv_program *program, int argc, char **argv, struct srv_options *ret_options);

#endif /* SRV_COMMON_OPTIONS_H */
