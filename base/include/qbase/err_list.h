/*
 * qbase/err_list.h: every error of the project, once.
 *
 * Q_ERR_LIST(X) expands X(NAME, number, retryable, message, hint) for each error. The enum, the
 * names, the texts, the wire status and the `{code, name, message, hint, retryable}` object that
 * users see all come from this list.
 *
 * Positive numbers are answers: part of a function's contract, handled by its caller. Negative
 * numbers are failures: something broke; they are passed up unchanged, with details in
 * q_fault_last(). A number is never reused: it is on the wire and in users' scripts.
 */
#ifndef QBASE_ERR_LIST_H
#define QBASE_ERR_LIST_H

/* clang-format off */
#define Q_ERR_LIST(X) \
    /* Answers about what was asked for. */ \
    X(END,               1, false, "no more records", "") \
    X(AGAIN,             2, true,  "nothing now", "ask again later") \
    X(NOT_FOUND,         3, false, "no such thing", "check the name") \
    X(EXISTS,            4, false, "exists already", "") \
    X(GONE,              5, false, "no longer stored", "it fell to retention; seek to a later sequence") \
    X(TOO_BIG,           6, false, "exceeds a limit", "make it smaller or raise the limit") \
    X(BUSY,              7, true,  "a bounded queue is full", "slow down and try again") \
    X(READ_ONLY,         8, true,  "writes are refused", "use another broker group") \
    X(INVALID,           9, false, "not valid", "see the message") \
    X(CONFLICT,         10, false, "conflicts with what is stored", "") \
    X(EXPIRED,          11, false, "the acknowledgement came too late", "the message was released to another consumer") \
    X(CONSUMER_REPLACED,12, false, "another session uses this consumer id", "give each process a consumer id of its own") \
    X(NO_SESSION,       13, true,  "the consumer has no session here", "join again") \
    X(FILTER_DIFFERS,   14, false, "the group consumes with another tag filter", "use the same -t for all members, or another group") \
    X(NO_ROUTE,         15, true,  "no broker group serves the subject", "start a broker, or wait until it has registered") \
    X(TIMED_OUT,        16, true,  "no answer in time", "is the server reachable? try again") \
    X(UNKNOWN_OPERATION,17, false, "unknown operation", "the peer is older or newer than this program") \
    X(UNAVAILABLE,      18, true,  "the server is not reachable", "is it running? check --meta and the address") \
    X(WINDOW_FULL,      19, true,  "the consumer holds as many un-acknowledged messages as it may", "acknowledge some") \
    X(NO_SUCH_MODE,     20, false, "this durability mode can't be had here", "use sync or async") \
    X(STOPPING,         21, true,  "the server is stopping", "try again") \
    X(STORAGE_FULL,     22, true,  "too little space is left for new messages", "consume and wait for retention, or give the broker more disk") \
    X(UNKNOWN_PRODUCER, 23, false, "the producer is not known here any more", "whether the request is stored can't be told; sent as a new one it may be stored twice") \
    X(OUT_OF_SEQUENCE,  24, true,  "requests of this producer before this one are missing", "send them again, in order") \
    X(OUTCOME_UNKNOWN,  25, false, "whether it is stored can't be told", "look for the message's id before it is sent again") \
    X(DELAY_TOO_LONG,   26, false, "the delay ends after the message may be dropped", "publish the message again with a delay") \
    X(DUE_TOO_FAR,      30, false, "due later than a delay store takes", "give an earlier time, or raise its limit") \
    X(BEING_DELIVERED,  31, false, "the message is on its way to a broker", "it is too late to cancel or move it") \
    /* Failures. */ \
    X(E_NOMEM,          -1, false, "out of memory", "lower the limits or give the process more memory") \
    X(E_IO,             -2, false, "input/output error", "check the disk and the kernel's log") \
    X(E_NO_SPACE,       -3, false, "no space left", "free some space or move the data directory") \
    X(E_CORRUPT,        -4, false, "damaged data", "run: qlog verify DIR") \
    X(E_VERSION,        -5, false, "unknown format version", "use the program that wrote it, or a newer one") \
    X(E_BROKEN,         -6, false, "refused since an earlier write or flush failed", "restart: recovery reads what the disk really has") \
    X(E_LOCKED,         -7, false, "in use by another process", "stop that process, or use another directory") \
    X(E_FOREIGN,        -8, false, "not a directory of this program", "use an empty or new directory") \
    X(E_PERMISSION,     -9, false, "permission denied", "change the owner or the mode, or use another directory") \
    X(E_NOT_DIRECTORY, -10, false, "not a directory", "remove it or use another path") \
    X(E_ADDRESS_IN_USE,-11, false, "the address is in use", "stop the other process, or use another --port-base") \
    X(E_PROTOCOL,      -12, false, "the peer sent something that is not this protocol", "check the address and the versions") \
    X(E_CONNECTION,    -13, true,  "the connection was lost", "the outcome is unknown; try again") \
    X(E_UNSUPPORTED,   -14, false, "not supported here", "") \
    X(E_NOT_NOW,       -17, true,  "can't be told for a moment", "try again in a moment") \
    X(E_FILES,         -16, true,  "too many open files", "raise the limit: ulimit -n, or LimitNOFILE= of the unit") \
    X(E_INTERNAL,      -15, false, "a defect in this program", "please report it")
/* clang-format on */

#endif /* QBASE_ERR_LIST_H */
