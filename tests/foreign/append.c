/* A program that knows of message queues nothing: it appends ten lines and reads them back. */
#include <stdio.h>

#include <qlog/cursor.h>
#include <qlog/log.h>

int
main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : "log";
    struct qlog_options options = { .create = true, .segment_bytes = 1024 * 1024 };
    struct qlog *log;
    struct qlog_cursor *cursor;
    struct qlog_record record;
    struct qlog_damage damage;
    struct q_bytes bytes;
    char line[32];
    int count = 0;
    if (qlog_open(directory, &options, &log) != Q_OK) goto failed;
    for (int i = 0; i < 10; i++)
        if (qlog_append(log, line, (size_t)sprintf(line, "line %d", i), NULL) != Q_OK) goto failed;
    if (qlog_close(log) != Q_OK) goto failed;

    if (qlog_cursor_open(directory, NULL, (qlog_position){ 0 }, &cursor) != Q_OK) goto failed;
    for (; qlog_cursor_next(cursor, &record, &damage) == Q_OK; count++)
        if (qlog_record_bytes(&record, &bytes) == Q_OK)
            printf("%.*s\n", (int)bytes.size, (const char *)bytes.data);
    qlog_cursor_close(cursor);
    return count == 10 ? 0 : 1;
failed:
    fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), (char[1024]){ 0 }, 1024));
    return 1;
}
