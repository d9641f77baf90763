/* A double of vmcompute.dll: what its parts share. See README.md for what it does and how it is scripted. */
#ifndef DOUBLE_H
#define DOUBLE_H

#include <windows.h>

#define PENDING ((HRESULT)0xC0370103)
#define E_STATE ((HRESULT)0xC0370105)
#define E_NO_SYSTEM ((HRESULT)0xC037010E)
#define E_EXISTS ((HRESULT)0xC037010F)
#define E_STOPPED ((HRESULT)0xC0370110)
#define E_NO_PROCESS ((HRESULT)0x80070490)
#define E_BAD_HANDLE ((HRESULT)0x80070006)
#define E_NO_FILE ((HRESULT)0x80070002)
#define CONTROL_C 0xC000013A
#define ABORTED 1067
#define KILLED 0xFFFFFFFF
#define SYSTEM_EXITED 0x1
#define PROCESS_EXITED 0x10000
#define INVALID_PIPE ((HANDLE)0x7FFFFF00)

typedef void(CALLBACK *callback)(DWORD type, void *context, HRESULT status, PCWSTR data);

/* text.c: UTF-8 everywhere inside, UTF-16 at the door */
typedef struct {
    char *at;
    size_t size, room;
} text;

void *grown(void *memory, size_t size);
char *copy_of(const char *value);
char *utf8(PCWSTR value);
WCHAR *utf16(const char *value);
void put(text *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
void put_bytes(text *out, const char *data, size_t size);
void put_escaped(text *out, const char *value, size_t size);
char *unescaped(char *value, size_t *size); /* in place */
const char *json_member(const char *object, const char *name);
char *json_string(const char *value); /* NULL if it is none; to be freed */
int json_true(const char *value);
const char *json_next(const char *place, char **name, const char **value); /* of an object; NULL at its end */
void version_five(const char *name, GUID *out);

/* script.c */
typedef struct note {
    DWORD type;
    HRESULT status;
    int after;
    char *data;
    struct note *next;
} note;

typedef struct rule {
    char *function, *match, *system;
    int times, used; /* times: -1 for ever */
    int has_hr, has_result, has_properties, has_notes, has_kill, has_exit, has_code, has_after, has_pid;
    HRESULT hr, exit_status;
    char *result, *properties; /* properties NULL: no document */
    note *notes;
    DWORD kill_code, exit_code, code, pid;
    int kill_after, exit_after, exit_on_close, after, delay, repeat, close_output, echo, withhold, invalid;
    char *out[2]; /* stdout, stderr */
    size_t out_size[2];
    struct rule *next;
} rule;

extern rule no_rule;
void read_script(char *script);
void forget_rules(void);
void forget_script(void);
rule *rule_for(const char *function, const char *value, const char *system); /* uses it up */
const char *scripted_guid(const char *name);
extern int crew, modern, keep_calls;
extern char *child_path;

/* objects */
typedef struct box box;
typedef struct handle handle;
typedef struct process process;
typedef struct pipe_end pipe_end;

typedef struct system_ {
    char *id, *document, *owner, *name;
    int refs, in_table, ending, exit_scheduled, exit_delivered, ends_with_handles;
    const char *state;
    note *untold, **untold_end;
    process *processes;
    handle *handles;
    HANDLE job;
    struct system_ *next;
} system_;

struct process {
    system_ *system;
    int refs, exited, input_closed, echo, killed, interrupted;
    DWORD pid, code;
    char *document, *name;
    FILETIME created;
    pipe_end *ends[3]; /* ours, of scripted processes */
    text given;
    rule *on_close;
    handle *handles;
    HANDLE child;
    process *next; /* in the system, later among those that have ended */
};

struct handle {
    char name[16];
    int number, client;
    size_t value;
    system_ *system;
    process *process;
    box *box;       /* its registration */
    note *untold;   /* of a process: due before there was one */
    handle *on;     /* of a registration: what it is for */
    char through[16];
    handle *next;
};

extern CRITICAL_SECTION lock;
extern CONDITION_VARIABLE changed;
extern int busy_calls;
void touch(void);
void failed(const char *format, ...) __attribute__((format(printf, 1, 2)));

void hold_process(process *p);
void drop_process(process *p);
void hold_system(system_ *s);
void drop_system(system_ *s);
void process_exit(process *p, DWORD code, HRESULT status, int silent);
void notify_system(system_ *s, DWORD type, HRESULT status, const char *data);
void notify_process(process *p, DWORD type, HRESULT status);
void kill_all(system_ *s, DWORD code);
void exit_later(system_ *s);

/* post.c: time, and threads that call back */
typedef void (*deed)(void *subject, DWORD number, HRESULT status, const char *data);
void after(int ms, deed what, void *subject, DWORD number, HRESULT status, const char *data);
int clock_pending(void);
box *new_box(callback call, void *context);
void post_to(box *to, DWORD type, HRESULT status, const char *data, system_ *told);
void close_box(box *of); /* returns when nothing of it is being delivered */
int post_busy(void);
void start_post(void);
void forget_later(void);

/* pipes.c */
int new_pipe(int stream, int for_child, HANDLE *theirs, HANDLE *ours); /* theirs: the client's, overlapped */
pipe_end *attach(process *p, int stream, HANDLE ours);
void pipe_write(pipe_end *end, const char *data, size_t size);
void pipe_end_output(pipe_end *end);
void pipe_drop(process *p);
int pipes_busy(void);
void close_pipes(void);

/* crew.c: real children */
HRESULT start_child(process *p, HANDLE inside[3]);
void crew_verb(const char *function, system_ *s);
void crew_terminate(system_ *s);
void crew_kill(process *p);
void crew_control(process *p, const char *word);
void crew_properties(system_ *s, const char *query, text *out);

#endif
