/*
 * show.h: a message on stdout.
 */
#ifndef QMQ_TOOL_SHOW_H
#define QMQ_TOOL_SHOW_H

#include <qmq/qmq.h>

enum show_format {
    SHOW_BODY,  /* the body and a newline */
    SHOW_ID,    /* the same after the id and a tab */
    SHOW_HUMAN, /* for a terminal: a line about the message, then the body */
    SHOW_JSON,  /* one object on one line */
};

/* `consumer` is who got it; NULL: nobody, it was only read. False: it could not be written; errno
 * says why. */
bool show_message(
    struct qmq_client *client,
    const char *consumer,
    const struct qmq_message *message,
    enum show_format format);

#endif /* QMQ_TOOL_SHOW_H */
