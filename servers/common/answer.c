/*
 * answer.c: answers without payload.
 */
#include "common/answer.h"

static enum q_err
build(unsigned op, int status, const ProtobufCMessage *header, struct qnet_buffer **ret_answer)
{
    struct qnet_buffer *answer;
    Q_TRY(qnet_buffer_new(qproto_size(header, 0), &answer));
    qproto_write(qnet_buffer_data(answer), op, status, header, 0);
    *ret_answer = answer;
    return Q_OK;
}

void
srv_answer(struct qnet_call *call, unsigned op, const ProtobufCMessage *header)
{
    struct qnet_buffer *answer;
    if (build(op, 0, header, &answer) == Q_OK)
        qnet_call_answer(call, answer);
    else
        qnet_call_drop(call);
}

void
srv_answer_error(struct qnet_call *call, unsigned op, enum q_err err)
{
    struct qnet_buffer *answer;
    if (srv_build_error(op, err, &answer) == Q_OK)
        qnet_call_answer(call, answer);
    else
        qnet_call_drop(call);
}

enum q_err
srv_build_error(unsigned op, enum q_err err, struct qnet_buffer **ret_answer)
{
    struct qproto_error error;
    qproto_error_fill(&error, err, q_fault_last());
    /* Used up: the next failure of this kind may come without words of its own. */
    q_fault_adopt(&(struct q_fault){ .position = Q_POSITION_NONE, .file = "" });
    return build(op, err, &error.header.base, ret_answer);
}
