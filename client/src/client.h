/*
 * client.h: what producers and consumers of one client share: the way to meta, the brokers, and a
 * thread for everything that happens because time has passed.
 *
 * Locks, outer first: a member's own lock, client.lock, broker.lock. None of them is held while a
 * program's callback runs.
 */
#ifndef QMQ_SRC_CLIENT_H
#define QMQ_SRC_CLIENT_H

#include <qbase/clock.h>
#include <qbase/list.h>
#include <qmq/qmq.h>

#include "call.h"
#include "hooks.h"
#include "support.h"

enum {
    ROUTE_GROUPS_MAX = 64,
    ROUTE_SLOTS = 1024, /* of the order keys of a subject */
};

/* A broker group as this client knows it. Lives as long as the client. */
struct broker {
    struct q_list node; /* client.brokers */
    struct qmq_client *client;
    uint32_t number; /* counted by this client, from 0 */
    char group[QPROTO_GROUP_MAX + 1];

    /* Guarded by client.lock: what meta said last about all broker groups. */
    bool is_listed;
    bool is_writable;
    /* The client's thread's: what it is about to say. */
    bool comes_listed;
    bool comes_writable;

    pthread_mutex_t lock;  /* guards what follows */
    char *address;         /* NULL: meta has not told yet */
    char *one_way;         /* where it takes one-way messages; "": nowhere. NULL as `address` is */
    struct link *links[3]; /* by enum broker_link; NULL until used */
};

/* Bulk has a connection of its own, so that it does not delay small calls. One-way messages go to another
 * address. */
enum broker_link {
    BROKER_CALLS,
    BROKER_BULK,
    BROKER_ONE_WAY,
};

/* Something that wants to be called when time has passed. */
struct member {
    struct q_list node; /* client.members */
    /* Does what is due and returns when it wants to be called next. On the client's thread. */
    uint64_t (*tick)(struct member *member, uint64_t now_ns);
};

struct qmq_client {
    char *meta_url;
    char *program;
    uint64_t timeout_ms;
    struct link *meta;
    const struct q_clock *clock;
    struct hooks hooks;
    const uint8_t *here; /* a page that is 1 where it was connected, and 0 after a fork */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    bool is_woken;
    bool is_stopping;
    struct q_list brokers;
    uint32_t broker_count;
    uint64_t route_changes; /* raised whenever the broker groups change */
    struct q_list members;
    struct member *ticking;
    pthread_cond_t ticked;
    struct link **retired; /* links to addresses of the past, to be closed by the thread */
    size_t retired_count;

    pthread_t thread;

    /* The watch on all broker groups; the client's thread and its `done` take turns. */
    struct {
        struct call call;
        bool is_under_way; /* with client.lock */
        bool has_failed;
        struct qnet_buffer *answer;
        uint64_t known_version;
        uint64_t next_ns;
        uint32_t backoff_ms;
    } watch;
};

/* foreign.c: a file descriptor that becomes readable. -1 is none. */
Q_MUST_CHECK enum q_err event_open(int *ret_fd);
void event_raise(int fd);
void event_clear(int fd);

void client_join(struct qmq_client *client, struct member *member);
/* Afterwards the member is not and will not be ticked. */
void client_part(struct qmq_client *client, struct member *member);
/* Tick all members soon. */
void client_wake(struct qmq_client *client);
uint64_t client_route_changes(struct qmq_client *client);
/* Whether there is more than one broker group that takes messages. */
bool client_has_several(struct qmq_client *client);
/* Q_OK, or Q_INVALID in a child of the process that has connected it. */
Q_MUST_CHECK enum q_err client_check(const struct qmq_client *client);
bool client_is_here(const struct qmq_client *client);
uint64_t client_now_ns(const struct qmq_client *client);

/* In the place of a subject: where delay groups are. */
#define ROUTE_OF_DELAY "%delay"
/* The request for where a subject is served; for a place when it has none yet. */
Q_MUST_CHECK enum q_err route_build(const char *subject, struct qnet_buffer **ret_buffer);
struct route {
    struct broker *brokers[ROUTE_GROUPS_MAX];
    bool is_writable[ROUTE_GROUPS_MAX];
    bool takes_one_way[ROUTE_GROUPS_MAX];
    uint32_t count;
    /* Whose the slots below `until` are, as far as the ones before leave them; ROUTE_SLOTS in all, or
     * none is told of. A home need not be alive, nor in `brokers`. */
    struct {
        uint32_t until;
        struct broker *broker;
    } homes[ROUTE_GROUPS_MAX];
    uint32_t home_count;
};
/* Takes `buffer`. Q_OK, Q_NO_ROUTE (no broker group at all), what the answer says. */
Q_MUST_CHECK enum q_err route_read(
    struct qmq_client *client, struct qnet_buffer *buffer, struct route *ret_route);

/* Ask and wait: where a subject is served, or ("") all broker groups. As route_read(). */
Q_MUST_CHECK enum q_err route_find(
    struct qmq_client *client, const char *subject, uint64_t timeout_ms, struct route *ret_route);
/* Q_OK, or Q_UNAVAILABLE: there are broker groups, and none of them takes one-way messages. */
Q_MUST_CHECK enum q_err route_check_one_way(const struct route *route);
/* Leave only the broker group of this name, unless it is NULL. Q_OK or Q_NOT_FOUND. */
Q_MUST_CHECK enum q_err route_narrow(struct route *route, const char *broker_group);

/* One call to one broker group. Q_NOT_FOUND: it does not have what is asked for. */
typedef enum q_err broker_ask_fn(struct broker *broker, void *context);
/*
 * Ask all broker groups that are there, or the one of this name, one after another. The first failure
 * is told, after all have been asked; to be unknown somewhere is none.
 */
Q_MUST_CHECK enum q_err brokers_ask(
    struct qmq_client *client, const char *broker_group, broker_ask_fn *ask, void *context);

/* As the wire has it. Not the default: what that is, its caller knows. */
uint32_t start_number(enum qmq_start start);

/* As link_submit(), to the broker's present address. */
Q_MUST_CHECK enum q_err broker_submit(
    struct broker *broker, enum broker_link which, struct call *call);
/*
 * Q_OK, or Q_UNAVAILABLE: there was a connection and there is none. For calls that would rather be
 * made later, after BROKER_LOST_PAUSE_NS, than wait for it.
 */
Q_MUST_CHECK enum q_err broker_check_link(struct broker *broker, enum broker_link which);
enum {
    BROKER_LOST_PAUSE_NS = 50 * Q_NS_PER_MS
};
/* Make a call and wait. Unless Q_OK there is no answer to close. */
Q_MUST_CHECK enum q_err broker_call(
    struct broker *broker,
    unsigned op,
    const ProtobufCMessage *header,
    uint64_t timeout_ms,
    struct answer *ret_answer);

/* What meta said about all broker groups: the others are not listed any more. */
void brokers_update(struct qmq_client *client, const Qmq__Wire__RouteAnswer *route);
void brokers_free(struct qmq_client *client);

#endif /* QMQ_SRC_CLIENT_H */
