/* A program of somebody else: builds with nothing but `pkg-config --cflags --libs qlog`. */
#include <stdio.h>
#include <string.h>

#include <qlog/cursor.h>
#include <qlog/log.h>

static int
fail(const char *what)
{
    char line[Q_FAULT_LINE_MAX];
    return fprintf(stderr, "%s: %s\n", what, q_fault_format(q_fault_last(), line, sizeof(line))), 1;
}

int
main(int argc, char **argv)
{
    const char *directory = argc > 1 ? argv[1] : "log", *words[] = { "one", "two", "three" };
    struct qlog *log;
    if (qlog_open(directory, &(struct qlog_options){ .create = true }, &log)) return fail("open");
    for (int i = 0; i < 3; i++)
        if (qlog_append(log, words[i], strlen(words[i]), NULL)) return fail("append");
    if (qlog_close(log)) return fail("close");

    struct qlog_cursor *cursor;
    struct qlog_record record;
    struct qlog_damage damage;
    struct q_bytes bytes;
    int seen = 0;
    if (qlog_cursor_open(directory, NULL, (qlog_position){ 0 }, &cursor)) return fail("read");
    while (qlog_cursor_next(cursor, &record, &damage) == Q_OK)
        if (qlog_record_bytes(&record, &bytes) == Q_OK)
            seen += bytes.size == strlen(words[seen % 3]) &&
                    !memcmp(bytes.data, words[seen % 3], bytes.size);
    qlog_cursor_close(cursor);
    return printf("%d of 3 read back\n", seen), seen == 3 ? 0 : 1;
}
