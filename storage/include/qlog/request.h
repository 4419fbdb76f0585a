/*
 * qlog/request.h: what every request of a store begins with. See qlog/store.h.
 */
#ifndef QLOG_REQUEST_H
#define QLOG_REQUEST_H

#include <qbase/list.h>
#include <qlog/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qlog_request;

/* Called exactly once, never from inside submit. For a failure, q_fault_last() tells more. */
typedef void qlog_done_fn(struct qlog_request *request, enum q_err err);

/* The store's, between submit and done. Needs no initialisation. */
struct qlog_private {
    uint64_t words[12];
};

enum qlog_request_kind {
    QLOG_PUBLISH,
    QLOG_JOIN,
    QLOG_PULL,
    QLOG_ACK,
    QLOG_KEEP_ALIVE,
    QLOG_LEAVE,
    QLOG_CANCEL,
    QLOG_TRIM,
    QLOG_NACK,
    QLOG_CONTROL,
    QLOG_GROUPS,
    QLOG_LAG,
    QLOG_PEEK,
};

struct qlog_request {
    /* Set by the caller. */
    enum qlog_request_kind kind;
    qlog_done_fn *done;
    void *context;

    /* Private to the store between submit and done. */
    struct q_mailbox_node node;
    struct qlog_request *next;
    enum q_err err;
};

#ifdef __cplusplus
}
#endif

#endif /* QLOG_REQUEST_H */
