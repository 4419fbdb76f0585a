/*
 * common/log.h: the only place where a server's text comes from.
 *
 *   2026-01-11T04:15:02.113Z INFO NODE-READY took_ms=41 roles=meta,broker
 *
 * A line is time, level, a stable id, key=value. A line is written when an operator might act on
 * it; a refused request is an answer and a counter, never a line. Everything goes to stderr, one
 * write per line.
 *
 * Thread: any. Blocking: as stderr does. Memory: lines are cut at SRV_LINE_MAX.
 */
#ifndef SRV_COMMON_LOG_H
#define SRV_COMMON_LOG_H

#include <qbase/err.h>

enum srv_level {
    SRV_ERROR,
    SRV_WARN,
    SRV_INFO,
    SRV_DEBUG,
};

enum {
    SRV_LINE_MAX = 2048
};

/* X(NAME, level, meaning): every line there is. The name, with dashes, is its id. */
#define SRV_EVENT_LIST(X)                                                                          \
    X(NODE_STARTING, INFO, "a process began: program, roles, data directory")                      \
    X(NODE_READY, INFO, "recovered, listening, registered, route published")                       \
    X(NODE_WAITING, WARN, "not ready: what it waits for, and what helps; goes on by itself")       \
    X(NODE_REGISTERED, INFO, "meta knows the node; its route is published")                        \
    X(NODE_STOPPING, INFO, "an orderly stop began")                                                \
    X(NODE_STOPPED, INFO, "everything is flushed and closed")                                      \
    X(META_NODE_NEW, INFO, "a node registered for the first time")                                 \
    X(META_NODE_CHANGED, INFO, "a node registered with another address, version or state")         \
    X(META_NODE_BACK, INFO, "a dead node shows signs of life: it is in the routes again")          \
    X(META_NODE_DEAD, WARN, "a node's heart-beats stopped: it is out of the routes")               \
    X(META_NODE_REFUSED, WARN, "a node is not admitted, and why")                                  \
    X(META_SUBJECT_ASSIGNED, DEBUG, "a subject was given broker groups")                           \
    X(META_FAILED, ERROR, "meta's database refused a read or a write")                             \
    X(BROKER_STORE, INFO, "what the store reports while it is opened and works")                   \
    X(BROKER_STORE_WARNING, WARN, "the same, where an operator should look")                       \
    X(BROKER_MEMORY, INFO, "what the store's limits allow it to take, by what, and what it takes") \
    X(BROKER_ROT, ERROR, "a stored batch failed its check and was not delivered")                  \
    X(DELAY_STORE, INFO, "what the delay store reports while it is opened and works")              \
    X(DELAY_STORE_WARNING, WARN, "the same, where an operator should look")                        \
    X(DELAY_GROUP_AWAY, WARN, "due messages can't be stored at a broker group: tried for ever")    \
    X(DELAY_GROUP_BACK, INFO, "a broker group stores due messages again")

enum srv_event {
#define SRV_EVENT_ENUM(name, level, meaning) SRV_##name,
    SRV_EVENT_LIST(SRV_EVENT_ENUM)
#undef SRV_EVENT_ENUM
};

/* Lines above this level are not written. The first default is INFO. */
void srv_log_set_level(enum srv_level level);
/* Q_OK or Q_INVALID. */
Q_MUST_CHECK enum q_err srv_log_parse_level(const char *text, enum srv_level *ret_level);

/* srv_log(SRV_NODE_READY, "took_ms=%u roles=%s", ms, srv_quote(roles)); */
void srv_log(enum srv_event event, const char *format, ...) Q_PRINTF(2, 3);
/* A line for people: banner, the one line of an error. No time, no id; adds the newline. */
void srv_say(const char *format, ...) Q_PRINTF(1, 2);

/*
 * `text` as the value of a key: as it is, or in quotes when it has blanks or quotes. In one of 8
 * rotating buffers of this thread, for use within one statement.
 */
const char *srv_quote(const char *text);
/* A fault as `cause=… hint=…`, in the same buffers. */
const char *srv_fault_keys(const struct q_fault *fault);

#endif /* SRV_COMMON_LOG_H */
