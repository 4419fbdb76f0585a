/*
 * error.c: a failure as it crosses the wire: the same object on both sides.
 */
#include <stdio.h>

#include <qproto/message.h>

void
qproto_error_fill(struct qproto_error *error, enum q_err err, const struct q_fault *fault)
{
    if (fault && fault->err == err) {
        q_fault_format(fault, error->message, sizeof(error->message));
        (void)snprintf(
            error->hint, sizeof(error->hint), "%s", fault->hint[0] ? fault->hint : q_err_hint(err));
    } else {
        (void)snprintf(error->message, sizeof(error->message), "%s", q_err_message(err));
        (void)snprintf(error->hint, sizeof(error->hint), "%s", q_err_hint(err));
    }

    /* protobuf-c's strings are not const; it does not write to what it packs. */
    qmq__wire__error__init(&error->header);
    error->header.code = err;
    error->header.name = (char *)q_err_name(err);
    error->header.message = error->message;
    error->header.hint = error->hint;
    error->header.retryable = q_err_retryable(err);
}

enum q_err
qproto_error_read(struct q_bytes header)
{
    struct qproto_arena arena;
    qproto_arena_init(&arena);

    Qmq__Wire__Error *error;
    enum q_err err = QPROTO_UNPACK(header, error, &arena, &error);
    if (err != Q_OK) goto out;

    err = q_err_from_number(error->code);
    if (error->code == 0 || (err == Q_E_PROTOCOL && error->code != Q_E_PROTOCOL))
        err = Q_FAIL(
            Q_E_PROTOCOL,
            .what = q_text("the peer answered %d %s: %s", error->code, error->name, error->message),
            .hint = error->hint);
    else
        err = Q_FAIL(err, .what = error->message, .hint = error->hint);

out:
    qproto_arena_reset(&arena);
    return err;
}
