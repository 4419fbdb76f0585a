/*
 * format/record_list.h: every kind of record, once.
 *
 * QL_RECORD_LIST(X) expands X(NAME, number, stem, log). Each layer expands it to its own table:
 * format to decode and describe (ql_describe_<stem>), store to apply (apply_<stem>), so that a kind
 * that can be replayed but not printed does not link. Numbers are never reused. Kinds that only a
 * delay store replays have a list of their own.
 */
#ifndef QL_FORMAT_RECORD_LIST_H
#define QL_FORMAT_RECORD_LIST_H

/* clang-format off */
#define QL_RECORD_LIST(X) \
    X(BATCH,     1, batch,    "message") /* qbatch/layout.h; its payload lies in the frame */ \
    X(SUBJECT,   2, subject,  "any")     /* a subject: made, named in a segment, or its state */ \
    X(PRODUCER,  3, producer, "action")  /* state: a producer's last requests; in a dispatch log, too */ \
    X(GROUP,    16, group,    "action")  /* a consumer group: made, or its state */ \
    X(JOIN,     17, join,     "action")  /* a consumer gets a session */ \
    X(PULL,     18, pull,     "action")  /* messages were handed out, the cursor moved */ \
    X(ACK,      19, ack,      "action")  /* messages are done */ \
    X(RELEASE,  20, release,  "action")  /* what a consumer held goes back to its group */ \
    X(CONSUMER, 21, consumer, "action")  /* state: a consumer of the group stated before */ \
    X(HELD,     22, held,     "action")  /* state: what that consumer holds */ \
    X(PENDING,  23, pending,  "action")  /* state: what is pending in the group */ \
    X(CURSOR,   24, cursor,   "action")  /* state: a long one goes on, and tells all up to here */ \
    X(TIMEOUT,  25, timeout,  "action")  /* a consumer had messages for too long */ \
    X(SEEK,     26, seek,     "action")  /* the group begins again, somewhere */ \
    X(SETTINGS, 27, settings, "action")  /* of a group */ \
    X(DELETE,   28, delete,   "action")  /* the group is no more */ \
    X(UNFILTER, 29, unfilter, "action")  /* a filter of the group is forgotten */ \
    X(RESOLVE,  30, resolve,  "action")  /* messages are dead, expired, skipped, or sent again */ \
    X(ERROR,    31, error,    "action")  /* state: the last error of a dying message */ \
    X(NACK,     48, nack,     "action")  /* messages failed: they wait, or die */ \
    X(BYTES,   256, bytes,    "log")     /* whatever a program put into a log of its own */

#define QL_DELAY_RECORD_LIST(X) \
    X(REPLACES,   32, replaces,    "delay")    /* the batch behind it takes a message's place */ \
    X(DELAYED,    33, delayed,     "dispatch") /* a round of statements begins */ \
    X(TARGET,     34, target,      "dispatch") /* a broker group and who we are to it */ \
    X(DISPATCH,   35, dispatch,    "dispatch") /* a request to a broker group: its exact messages */ \
    X(DISPATCHED, 36, dispatched,  "dispatch") /* it is stored there, or taken back */ \
    X(WITHDRAWN,  37, withdrawn,   "dispatch") /* a message is cancelled, or has another place */ \
    X(MARKS,      38, marks,       "dispatch") /* state: which messages are done */ \
    X(ASIDE,      39, aside,       "dispatch") /* a message is refused, and waits aside */ \
    X(DONE,       40, done,        "dispatch") /* state: a stretch of messages that are all done */
/* clang-format on */

enum ql_record_kind {
#define QL_RECORD_ENUM(name, number, stem, log) QL_RECORD_##name = (number),
    QL_RECORD_LIST(QL_RECORD_ENUM) QL_DELAY_RECORD_LIST(QL_RECORD_ENUM)
#undef QL_RECORD_ENUM
};

#endif /* QL_FORMAT_RECORD_LIST_H */
