/*
 * main.c: qmq, the command line. One table of commands makes the dispatch and the help.
 */
#include <stdarg.h>
#include <string.h>

#include <qbase/text.h>

#include "command.h"

static const struct command commands[] = {
    { "dev", "", "start a node to try things with: meta and broker in one process",
      "It becomes qmqd; all of `qmqd --help` may be given, too.", dev_run },
    { "pub", "SUBJECT [BODY]", "publish a message, or each line of a file",
      "Without BODY and --from the body is read from stdin.", pub_run },
    { "sub", "SUBJECT", "join a group, print its messages and acknowledge them",
      "To a pipe or file only bodies are written, one per line.", sub_run },
    { "find", "SUBJECT", "print messages with a key, with an id, or stored at a time",
      "Nothing is changed, and nothing remembers that they were read.", find_run },
    { "delay list", "", "list messages that wait until they are due", NULL, delay_list_run },
    { "delay show", "HANDLE|ID", "tell of one of them", NULL, delay_show_run },
    { "delay cancel", "HANDLE|ID", "never deliver it",
      "HANDLE is what `qmq pub --delay` and `qmq delay list` print. An ID needs --due.",
      delay_cancel_run },
    { "delay reschedule", "HANDLE|ID", "deliver it at another time; prints its new handle", NULL,
      delay_reschedule_run },
    { "delay histogram", "", "count messages by the time at which they are due", NULL,
      delay_histogram_run },
    { "delay lag", "", "tell how delay groups are doing", NULL, delay_lag_run },
    { "group list", "[SUBJECT]", "all groups, or those of a subject", NULL, group_list_run },
    { "group show", "GROUP", "a group's settings, and all that `lag` tells", NULL, group_show_run },
    { "group lag", "GROUP", "how far a group is, what holds it, and who works in it", NULL,
      group_lag_run },
    { "group seek", "GROUP", "go on somewhere else",
      "All attempts begin again. What is in consumers' hands is theirs no more: acks of it come "
      "too\n"
      "late, and it comes again if it lies behind the new place.",
      group_seek_run },
    { "group skip", "GROUP SEQ|FIRST-LAST|all", "be done with messages without working on them",
      NULL, group_skip_run },
    { "group pause", "GROUP", "give out nothing new", NULL, group_pause_run },
    { "group resume", "GROUP", "go on after a pause", NULL, group_resume_run },
    { "group set", "GROUP", "change a group's settings", "What is not named stays as it is.",
      group_set_run },
    { "group delete", "GROUP", "forget a group and its progress", NULL, group_delete_run },
    { "dlq list", "[SUBJECT]", "messages that became dead letters", NULL, dlq_list_run },
    { "dlq resend", "[SUBJECT]", "give a group its dead letters again, each once",
      "What was sent again before is left out, unless --again.", dlq_resend_run },
    { "brokers", "", "who the brokers are, and what became of one-way messages",
      "Of one-way messages that came: stored; sent back, since more came than the store took "
      "(BUSY);\n"
      "dropped for lack of space, or for any other reason. What is none of these is in hand. Bad "
      "calls\n"
      "are those of which nothing could be counted.",
      brokers_run },
    { "bench pub", "", "measure publishing", NULL, bench_pub_run },
    { "bench sub", "", "measure consuming what `bench pub` has published", NULL, bench_sub_run },
    { "bench e2e", "", "measure messages from producers to consumers, at a rate", NULL,
      bench_e2e_run },
    { "bench backlog", "", "measure consuming what was published before", NULL, bench_backlog_run },
    { "bench fanout", "", "the same, by ten groups", NULL, bench_fanout_run },
    { "bench delay", "", "measure how late delayed messages are", NULL, bench_delay_run },
    { "version", "", "print the version", NULL, version_run },
    { "help", "[COMMAND]", "print this, or the help of a command", NULL, help_run },
};

enum {
    COMMAND_COUNT = sizeof(commands) / sizeof(commands[0])
};

static const struct command *find(int argc, char **argv, int *ret_words);
static bool has_second_word(const char *word);
static int unknown(int argc, char **argv);
static void print_overview(FILE *out);

int
main(int argc, char **argv)
{
    int words;
    const struct command *command = find(argc - 1, argv + 1, &words);
    if (command) return command->run(command, argc - words, argv + words);
    if (argc < 2) {
        print_overview(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_overview(stdout);
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) return version_run(NULL, 1, argv);
    return unknown(argc, argv);
}

/* The command that the first one or two words name. */
static const struct command *
find(int argc, char **argv, int *ret_words)
{
    for (int words = 2; words >= 1; words--) {
        if (argc < words) continue;
        const char *name = words == 2 ? q_text("%s %s", argv[0], argv[1]) : argv[0];
        for (size_t index = 0; index < COMMAND_COUNT; index++) {
            if (strcmp(commands[index].name, name) != 0) continue;
            *ret_words = words;
            return &commands[index];
        }
    }
    return NULL;
}

/* "group" of "group list". */
static bool
has_second_word(const char *word)
{
    for (size_t index = 0; index < COMMAND_COUNT; index++) {
        size_t length = strcspn(commands[index].name, " ");
        bool is_first = strlen(word) == length && strncmp(commands[index].name, word, length) == 0;
        if (is_first && commands[index].name[length]) return true;
    }
    return false;
}

static int
unknown(int argc, char **argv)
{
    const char *names[COMMAND_COUNT];
    for (size_t index = 0; index < COMMAND_COUNT; index++)
        names[index] = commands[index].name;

    const char *word =
        argc > 2 && has_second_word(argv[1]) ? q_text("%s %s", argv[1], argv[2]) : argv[1];
    const char *near = q_text_nearest(word, names, COMMAND_COUNT);
    (void)fprintf(stderr, "qmq: there is no command \"%s\"\n", word);
    for (size_t index = 0; index < COMMAND_COUNT; index++) {
        bool is_part = strncmp(names[index], word, strlen(word)) == 0;
        if (is_part || names[index] == near)
            (void)fprintf(stderr, "  did you mean: qmq %s\n", names[index]);
    }
    (void)fprintf(stderr, "  try: qmq help\n");
    return EXIT_USAGE;
}

int
version_run(const struct command *command, int argc, char **argv)
{
    (void)command;
    (void)argc;
    (void)argv;
    (void)printf("qmq %s\n", qmq_version());
    return EXIT_OK;
}

int
help_run(const struct command *command, int argc, char **argv)
{
    (void)command;
    if (argc < 2) {
        print_overview(stdout);
        return EXIT_OK;
    }
    int words;
    const struct command *about = find(argc - 1, argv + 1, &words);
    if (!about) return unknown(argc, argv);
    if (about->run == help_run || about->run == version_run) {
        command_print_help(stdout, about, NULL, 0);
        return EXIT_OK;
    }
    char *arguments[] = { argv[words], (char *)"--help", NULL };
    return about->run(about, 2, arguments);
}

static void
print_overview(FILE *out)
{
    (void)fprintf(
        out, "qmq %s: a message queue\n\nusage: qmq COMMAND [OPTIONS]\n\n", qmq_version());
    for (size_t index = 0; index < COMMAND_COUNT; index++)
        (void)fprintf(out, "  %-16s  %s\n", commands[index].name, commands[index].what);
    (void)fprintf(out, "\nqmq COMMAND --help tells more.\n\nexit codes:\n");
#define EXIT_LINE(name, code, meaning) (void)fprintf(out, "  %3d  %s\n", code, meaning);
    QMQ_EXIT_LIST(EXIT_LINE)
#undef EXIT_LINE
}
