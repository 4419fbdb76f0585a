/*
 * 03-follow: read a log while another process writes it.
 *
 *     ./03-follow DIR
 *
 * A cursor reads what is flushed, takes no lock, and ends there; the next one begins at the frame
 * where it ended. Here a child writes and the parent follows it, until the last record is read.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <qlog/cursor.h>
#include <qlog/log.h>

enum {
    RECORDS = 200
};

static int write_all(const char *directory);
static enum q_err read_on(const char *directory, qlog_position *from, int *count);

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
    pid_t writer = fork();
    if (writer == 0) _exit(write_all(directory));

    qlog_position from = { 0 };
    int count = 0;
    int status = 0;
    bool writing = true;
    while (count < RECORDS) {
        bool last = !writing;
        enum q_err err = read_on(directory, &from, &count);
        /* The first times there may be nothing yet; at the end there must be everything. */
        if (err != Q_OK && last) return failed();
        if (last && count < RECORDS) return 1;
        if (writing) writing = waitpid(writer, &status, WNOHANG) == 0;
        (void)nanosleep(&(struct timespec){ .tv_nsec = 10 * 1000 * 1000 }, NULL);
    }
    if (writing) (void)waitpid(writer, &status, 0);
    (void)printf("%d records read, each once and in order\n", count);
    return status == 0 ? 0 : 1;
}

static int
write_all(const char *directory)
{
    struct qlog *log;
    if (qlog_open(directory, &(struct qlog_options){ .create = true }, &log) != Q_OK)
        return failed();
    for (int i = 0; i < RECORDS; i++)
        if (qlog_append(log, &i, sizeof(i), NULL) != Q_OK) return failed();
    return qlog_close(log) == Q_OK ? 0 : failed();
}

/* Read from `*from` to the end; `*from` is then where the next record will be. */
static enum q_err
read_on(const char *directory, qlog_position *from, int *count)
{
    struct qlog_cursor *cursor;
    enum q_err err = qlog_cursor_open(directory, NULL, *from, &cursor);
    if (err != Q_OK) return err;
    struct qlog_record record;
    struct qlog_damage damage;
    struct q_bytes bytes;
    while ((err = qlog_cursor_next(cursor, &record, &damage)) == Q_OK) {
        int number = -1;
        if (qlog_record_bytes(&record, &bytes) == Q_OK && bytes.size == sizeof(number))
            memcpy(&number, bytes.data, sizeof(number));
        if (number != *count) abort();
        (*count)++;
    }
    struct qlog_log_state state;
    qlog_cursor_state(cursor, &state);
    from->value = state.end;
    qlog_cursor_close(cursor);
    return err == Q_END ? Q_OK : err;
}
