/*
 * public.c: the last error, ids, the version; and that the public codes are the project's.
 */
#include <qbatch/id.h>
#include <qmq/qmq.h>

#include "support.h"

#define SAME_CODE(name) _Static_assert((int)QMQ_##name == (int)Q_##name, "codes are the project's")
SAME_CODE(OK);
SAME_CODE(AGAIN);
SAME_CODE(NOT_FOUND);
SAME_CODE(GONE);
SAME_CODE(TOO_BIG);
SAME_CODE(BUSY);
SAME_CODE(INVALID);
SAME_CODE(EXPIRED);
SAME_CODE(CONSUMER_REPLACED);
SAME_CODE(FILTER_DIFFERS);
SAME_CODE(NO_ROUTE);
SAME_CODE(TIMED_OUT);
SAME_CODE(UNAVAILABLE);
SAME_CODE(WINDOW_FULL);
SAME_CODE(STOPPING);
SAME_CODE(STORAGE_FULL);
SAME_CODE(OUTCOME_UNKNOWN);
SAME_CODE(DELAY_TOO_LONG);
SAME_CODE(DUE_TOO_FAR);
SAME_CODE(BEING_DELIVERED);
SAME_CODE(E_NOMEM);
SAME_CODE(E_IO);
SAME_CODE(E_CORRUPT);
SAME_CODE(E_CONNECTION);
_Static_assert((int)QMQ_ID_TEXT_SIZE == (int)QBATCH_ID_TEXT_SIZE, "the text of an id");

struct qmq_error
qmq_last_error(void)
{
    static _Thread_local char message[Q_FAULT_LINE_MAX];
    const struct q_fault *fault = q_fault_last();

    return (struct qmq_error){
        .code = fault->err,
        .name = q_err_name(fault->err),
        .message = q_fault_format(fault, message, sizeof(message)),
        .hint = fault->hint[0] ? fault->hint : q_err_hint(fault->err),
        .retryable = q_err_retryable(fault->err),
    };
}

const char *
qmq_version(void)
{
    return QMQ_VERSION;
}

const char *
qmq_id_text(const struct qmq_id *id, char *out)
{
    struct qbatch_id batch_id = {
        .time_ms = id->time_ms,
        .producer = id->producer,
        .counter = id->counter,
    };
    return qbatch_id_format(&batch_id, out);
}
