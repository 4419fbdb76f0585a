/*
 * Command lines: what they set, and what a mistake is told.
 */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include <qbase/opts.h>

struct values {
    bool verbose;
    const char *data;
    uint64_t port;
    uint64_t size;
    uint64_t linger_ns;
    struct q_opt_list tags;
};

static struct values values;
static struct q_opts_result result;

static const struct q_opt options[] = {
    { "verbose", 'v', Q_OPT_FLAG, &values.verbose, NULL, "say more", 0, 0 },
    { "data", 'd', Q_OPT_TEXT, &values.data, "DIR", "data directory", 0, 0 },
    { "port-base", 'p', Q_OPT_NUMBER, &values.port, "N", "first port", 1, 65535 },
    { "segment-size", 0, Q_OPT_SIZE, &values.size, "SIZE", "of a file", 4096, 0 },
    { "linger", 'l', Q_OPT_DURATION, &values.linger_ns, "TIME", "wait", 0, UINT64_C(10000000000) },
    { "tag", 't', Q_OPT_LIST, &values.tags, "TAG", "only these", 0, 0 },
};

/* Parse the words of `line`, which are separated by single spaces. */
static enum q_err
parse(const char *line)
{
    static char program[] = "program";
    static char words[512];
    char *argv[128] = { program };
    int argc = 1;
    values = (struct values){ .data = "default", .port = 20880 };
    (void)snprintf(words, sizeof(words), "%s", line);
    char *rest = words;
    for (char *word = strsep(&rest, " "); word && *word; word = strsep(&rest, " "))
        argv[argc++] = word;
    return q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
}

#define assert_refused(line, text)                                                                 \
    do {                                                                                           \
        cr_assert_eq(parse(line), Q_INVALID);                                                      \
        cr_assert_str_eq(result.error, (text));                                                    \
    } while (0)

/* What is not given keeps its default. */
Test(base_opts, defaults)
{
    cr_assert_eq(parse(""), Q_OK);
    cr_assert_str_eq(values.data, "default");
    cr_assert_eq(values.port, 20880);
    cr_assert_not(values.verbose);
    cr_assert_eq(result.arg_count, 0);
}

/* Long and short options, in all spellings, anywhere among the arguments. */
Test(base_opts, spellings)
{
    cr_assert_eq(parse("send --data /a -p 5 orders --segment-size=64KiB -l250ms -v x"), Q_OK);
    cr_assert_str_eq(values.data, "/a");
    cr_assert_eq(values.port, 5);
    cr_assert_eq(values.size, 65536);
    cr_assert_eq(values.linger_ns, 250000000);
    cr_assert(values.verbose);
    cr_assert_eq(result.arg_count, 3);
    cr_assert_str_eq(result.args[0], "send");
    cr_assert_str_eq(result.args[1], "orders");
    cr_assert_str_eq(result.args[2], "x");
}

/* `--` ends the options; a lone dash is an argument; a value may begin with a dash or be empty. */
Test(base_opts, dashes)
{
    cr_assert_eq(parse("- -d -x --data= -- --verbose --help"), Q_OK);
    cr_assert_str_eq(values.data, "");
    cr_assert_not(values.verbose);
    cr_assert_not(result.help);
    cr_assert_eq(result.arg_count, 3);
    cr_assert_str_eq(result.args[0], "-");
    cr_assert_str_eq(result.args[2], "--help");
}

/* A list collects all its values in order, and says when they are too many. */
Test(base_opts, lists)
{
    cr_assert_eq(parse("-t a --tag b -tc"), Q_OK);
    cr_assert_eq(values.tags.count, 3);
    cr_assert_str_eq(values.tags.values[2], "c");
    assert_refused(
        "-t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1 -t1",
        "-t may be given 16 times at most");
}

/* Help is given whatever else is wrong with the line. */
Test(base_opts, help)
{
    cr_assert_eq(parse("--bogus --port-base=x -h"), Q_OK);
    cr_assert(result.help);
    cr_assert_str_empty(result.error);
    cr_assert_eq(parse("--help"), Q_OK);
    cr_assert(result.help);
}

/* An unknown option is told with the nearest one, if one is near. */
Test(base_opts, did_you_mean)
{
    assert_refused("--port-bsae 1", "unknown option --port-bsae; did you mean --port-base?");
    assert_refused("--segmentsize=1", "unknown option --segmentsize; did you mean --segment-size?");
    assert_refused("--hlep", "unknown option --hlep; did you mean --help?");
    assert_refused("--frobnicate", "unknown option --frobnicate; see --help");
    assert_refused("-verbose", "-v takes no value, but got 'erbose'");
    assert_refused("-segment-size 1", "unknown option -segment-size; did you mean --segment-size?");
    assert_refused("-q", "unknown option -q; see --help");
}

/* Each mistake with a value names the option as it was written, and the cause. */
Test(base_opts, bad_values)
{
    assert_refused("--port-base", "--port-base needs a value: --port-base N");
    assert_refused("-p", "-p needs a value: -p N");
    assert_refused("--verbose=1", "--verbose takes no value, but got '1'");
    assert_refused("--port-base=12x", "--port-base: '12x' is not a number");
    assert_refused("--port-base=-1", "--port-base: '-1' is not a number");
    assert_refused("-p70000", "-p: 70000 is not between 1 and 65535");
    assert_refused("-p 0", "-p: 0 is not between 1 and 65535");
    assert_refused("--segment-size 1KiB", "--segment-size: 1KiB is less than 4 KiB");
    assert_refused(
        "--segment-size 1XB", "--segment-size: '1XB' is not a size like 4096, 64KiB or 1GB");
    assert_refused("-l 11s", "-l: 11s is not between 0s and 10s");
    assert_refused("-l soon", "-l: 'soon' is not a duration like 250ms, 10s or 5m");
}

/* The first of several mistakes is the one that is told, and a refused value is not stored. */
Test(base_opts, first_mistake)
{
    assert_refused("-p x --bogus", "-p: 'x' is not a number");
    cr_assert_eq(values.port, 20880);
}

/* More arguments than a program can have are refused, and so is a long word, without overflow. */
Test(base_opts, too_much)
{
    char line[400] = "";
    for (size_t i = 0; i <= Q_OPT_ARGS_MAX; i++)
        memcpy(line + 2 * i, "a ", 3);
    assert_refused(line, "more than 64 arguments");
    memset(line, 'x', sizeof(line) - 1);
    line[sizeof(line) - 1] = '\0';
    memcpy(line, "--", 2);
    cr_assert_eq(parse(line), Q_INVALID);
    memcpy(line, "--port-base=", 12);
    cr_assert_eq(parse(line), Q_INVALID);
}

/* The help text has one line per option, with descriptions below one another. */
Test(base_opts, help_text)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    q_opts_print_help(out, options, 3);
    cr_assert_eq(fclose(out), 0);
    cr_assert_str_eq(
        text, "  -v, --verbose      say more\n"
              "  -d, --data DIR     data directory\n"
              "  -p, --port-base N  first port\n"
              "  -h, --help         print this help\n");
    free(text);
}
