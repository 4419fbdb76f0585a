/*
 * open: start a directory as a program would, say what it is told, and stop it.
 *
 *   golden-open DIR store|log
 *
 * Exit 0, or 1 and the error as the tools print it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <qlog/log.h>

static void
on_event(void *context, const struct qlog_event *event)
{
    (void)context;
    /* How this machine writes is no matter of the format. */
    if (event->kind == QLOG_EVENT_IO_BACKEND || event->kind == QLOG_EVENT_BUFFERS_UNREGISTERED ||
        event->kind == QLOG_EVENT_BUFFERED)
        return;
    (void)printf(
        "%s %s at %" PRIu64 ", %" PRIu64 " bytes: %s\n", qlog_event_name(event->kind),
        event->log == NULL ? "" : event->log, event->position, event->bytes, event->text);
}

static int
fail(enum q_err err)
{
    char text[Q_FAULT_LINE_MAX];
    const struct q_fault *fault = q_fault_last();
    (void)printf("%s  [%s]\n", q_fault_format(fault, text, sizeof(text)), q_err_name(err));
    (void)printf("  try: %s\n", fault->hint[0] == '\0' ? q_err_hint(err) : fault->hint);
    return 1;
}

int
main(int argc, char **argv)
{
    if (argc != 3) {
        (void)fprintf(stderr, "usage: golden-open DIR store|log\n");
        return 2;
    }
    const struct qlog_observer observer = { .on_event = on_event };
    const struct qlog_options options = { .observer = &observer, .segment_bytes = 64 * 1024 };
    if (strcmp(argv[2], "log") == 0) {
        struct qlog *log;
        enum q_err err = qlog_open(argv[1], &options, &log);
        if (err == Q_OK) err = qlog_append(log, "and on", strlen("and on"), NULL);
        if (err == Q_OK) err = qlog_close(log);
        return err == Q_OK ? 0 : fail(err);
    }
    const struct qlog_store_options store_options = { .log = options };
    struct qlog_store *store;
    enum q_err err = qlog_store_open(argv[1], &store_options, &store);
    if (err == Q_OK) err = qlog_store_close(store);
    return err == Q_OK ? 0 : fail(err);
}
