/*
 * 01-append: put records into a log, and read them back.
 *
 *     ./01-append DIR
 *
 * qlog_append() returns when the record is on the disk: pull the plug behind it, and it is there.
 */
#include <stdio.h>
#include <string.h>

#include <qlog/cursor.h>
#include <qlog/log.h>

static int
failed(void)
{
    char text[Q_FAULT_LINE_MAX];
    (void)fprintf(stderr, "%s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
    return 1;
}

int
main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : "log";
    struct qlog *log;
    if (qlog_open(directory, &(struct qlog_options){ .create = true }, &log) != Q_OK)
        return failed();
    const char *lines[] = { "the first record", "the second", "and a third" };
    for (size_t i = 0; i < 3; i++) {
        qlog_position position;
        if (qlog_append(log, lines[i], strlen(lines[i]), &position) != Q_OK) return failed();
        (void)printf("appended at %llu\n", (unsigned long long)position.value);
    }
    if (qlog_close(log) != Q_OK) return failed();

    struct qlog_cursor *cursor;
    if (qlog_cursor_open(directory, NULL, (qlog_position){ 0 }, &cursor) != Q_OK) return failed();
    struct qlog_record record;
    struct qlog_damage damage;
    struct q_bytes bytes;
    enum q_err err;
    while ((err = qlog_cursor_next(cursor, &record, &damage)) == Q_OK)
        if (qlog_record_bytes(&record, &bytes) == Q_OK)
            (void)printf("read \"%.*s\"\n", (int)bytes.size, (const char *)bytes.data);
    qlog_cursor_close(cursor);
    return err == Q_END ? 0 : failed();
}
