/* The exports of vmcompute.dll, with the same arguments; what they do is told by a script, or by Windows' own programs
 * (`crew`). The same service as tests/hcs/scripted.py is in Python, and it must behave the same. */
#include "double.h"

#include <objbase.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __declspec(dllexport)

typedef struct {
    DWORD process_id, reserved;
    HANDLE std[3];
} process_information;

CRITICAL_SECTION lock;
CONDITION_VARIABLE changed = CONDITION_VARIABLE_INIT;
int busy_calls;

static ULONGLONG last_touched;
static text errors;
static LONG texts_out;

void touch(void)
{
    last_touched = GetTickCount64();
}

void failed(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    put(&errors, "%s\n", line);
}

/* systems and processes */

static system_ *systems;
static struct known {
    process *it;
    struct known *next;
} *known; /* all that there ever were, the newest first; not in long runs */
static DWORD next_pid = 1004;

void hold_system(system_ *s)
{
    s->refs++;
}

static void free_notes(note *it)
{
    while (it) {
        note *next = it->next;
        free(it->data);
        free(it);
        it = next;
    }
}

void drop_system(system_ *s)
{
    if (--s->refs)
        return;
    if (s->job)
        CloseHandle(s->job);
    free_notes(s->untold);
    free(s->id), free(s->document), free(s->owner), free(s->name);
    free(s);
}

void hold_process(process *p)
{
    p->refs++;
}

void drop_process(process *p)
{
    if (--p->refs)
        return;
    if (p->child)
        CloseHandle(p->child);
    drop_system(p->system);
    free(p->document), free(p->name), free(p->given.at);
    free(p);
}

static void out_of_table(system_ *s)
{
    if (!s->in_table)
        return;
    for (system_ **place = &systems; *place; place = &(*place)->next)
        if (*place == s) {
            *place = s->next;
            break;
        }
    s->in_table = 0;
    drop_system(s);
}

static system_ *find_system(const char *id)
{
    for (system_ *s = systems; s; s = s->next)
        if (!strcmp(s->id, id))
            return s;
    return NULL;
}

static process *find_process(DWORD pid)
{
    for (struct known *each = known; each; each = each->next)
        if (each->it->pid == pid)
            return each->it;
    for (system_ *s = systems; s; s = s->next)
        for (process *p = s->processes; p; p = p->next)
            if (p->pid == pid)
                return p;
    return NULL;
}

/* handles: numbers, in a table that grows */

static handle **table;
static size_t table_size, table_room, live_handles;
static int named[3]; /* how many systems, processes and callbacks had a name */

static handle *new_handle(char kind, int client, system_ *s, process *p)
{
    handle *made = grown(NULL, sizeof *made);
    memset(made, 0, sizeof *made);
    made->number = ++named[kind == 's' ? 0 : kind == 'p' ? 1 : 2];
    snprintf(made->name, sizeof made->name, "%c%d", kind, made->number);
    made->client = client;
    made->system = s;
    made->process = p;
    size_t at = keep_calls ? table_size : 0; /* values are used again only in long runs */
    while (at < table_size && table[at])
        at++;
    if (at == table_size) {
        if (table_size == table_room)
            table = grown(table, (table_room = table_room * 2 + 64) * sizeof *table);
        table_size++;
    }
    table[at] = made;
    made->value = 0x1000 + 0x10 * at;
    live_handles++;
    if (kind == 's')
        made->next = s->handles, s->handles = made, hold_system(s);
    else if (kind == 'p')
        made->next = p->handles, p->handles = made, hold_process(p);
    else if (s)
        hold_system(s);
    else
        hold_process(p);
    return made;
}

static handle *find_handle(void *value, char kind)
{
    size_t number = (size_t)value;
    if (number < 0x1000 || number % 0x10 || (number - 0x1000) / 0x10 >= table_size)
        return NULL;
    handle *found = table[(number - 0x1000) / 0x10];
    return found && (!kind || found->name[0] == kind) ? found : NULL;
}

static void unlink_handle(handle **list, handle *h)
{
    for (; *list; list = &(*list)->next)
        if (*list == h) {
            *list = h->next;
            return;
        }
}

static void close_handle(handle *h)
{
    if (h->on) { /* a registration: close_box waits, and lets others in */
        box *it = h->on->box;
        h->on->box = NULL;
        handle *on = h->on;
        h->on = NULL;
        if (it)
            close_box(it);
        (void)on;
    }
    table[(h->value - 0x1000) / 0x10] = NULL;
    live_handles--;
    if (h->box)
        failed("%s was closed before its callback was unregistered", h->name);
    system_ *s = h->system;
    if (h->name[0] == 's') {
        unlink_handle(&s->handles, h);
        if (!s->handles) {
            if (!strcmp(s->state, "Stopped") && s->in_table)
                out_of_table(s);
            else if (s->ends_with_handles && strcmp(s->state, "Stopped")) {
                if (crew)
                    crew_terminate(s);
                else
                    kill_all(s, ABORTED), exit_later(s);
            }
        }
    } else if (h->name[0] == 'p') {
        unlink_handle(&h->process->handles, h);
        free_notes(h->untold);
    }
    if (h->system)
        drop_system(h->system);
    else
        drop_process(h->process);
    free(h);
}

/* what the service does by itself */

static void down(system_ *s)
{
    s->state = "Stopped";
    s->exit_scheduled = 1;
    if (crew)
        out_of_table(s);
}

void notify_process(process *p, DWORD type, HRESULT status)
{
    for (handle *h = p->handles; h; h = h->next) {
        if (h->box) {
            post_to(h->box, type, status, NULL, NULL);
            continue;
        }
        note **last = &h->untold;
        while (*last)
            last = &(*last)->next;
        *last = grown(NULL, sizeof **last);
        **last = (note){type, status};
    }
}

void notify_system(system_ *s, DWORD type, HRESULT status, const char *data)
{
    int told = 0;
    hold_system(s);
    if (type == SYSTEM_EXITED)
        down(s);
    for (handle *h = s->handles; h; h = h->next)
        if (h->box) {
            post_to(h->box, type, status, data, s);
            told = 1;
        }
    if (!told) {
        note *made = grown(NULL, sizeof *made);
        *made = (note){type, status, 0, copy_of(data)};
        *s->untold_end = made;
        s->untold_end = &made->next;
    }
    drop_system(s);
}

void process_exit(process *p, DWORD code, HRESULT status, int silent)
{
    if (p->exited)
        return;
    p->exited = 1;
    p->code = code;
    touch();
    for (int i = 1; i < 3; i++)
        if (p->ends[i])
            pipe_end_output(p->ends[i]);
    for (process **place = &p->system->processes; *place; place = &(*place)->next)
        if (*place == p) {
            *place = p->next;
            break;
        }
    p->next = NULL;
    if (!silent)
        notify_process(p, PROCESS_EXITED, status);
    drop_process(p); /* the system's hold */
}

static void exit_now(void *subject, DWORD code, HRESULT status, const char *data)
{
    process_exit(subject, code, status, 0);
    drop_process(subject);
}

static void process_exit_later(process *p, DWORD code, HRESULT status, int ms)
{
    hold_process(p);
    after(ms, exit_now, p, code, status, NULL);
}

void kill_all(system_ *s, DWORD code)
{
    while (s->processes)
        process_exit(s->processes, code, 0, 0);
}

static void kill_now(void *subject, DWORD code, HRESULT status, const char *data)
{
    kill_all(subject, code);
    drop_system(subject);
}

static void notify_now(void *subject, DWORD type, HRESULT status, const char *data)
{
    notify_system(subject, type, status, data);
    drop_system(subject);
}

static void notify_later(system_ *s, DWORD type, HRESULT status, const char *data, int ms)
{
    hold_system(s);
    after(ms, notify_now, s, type, status, data);
}

void exit_later(system_ *s)
{
    if (!s->exit_scheduled) {
        s->exit_scheduled = 1;
        notify_later(s, SYSTEM_EXITED, 0, NULL, 60);
    }
}

static DWORD completion_of(const char *function)
{
    return !strcmp(function, "HcsCreateComputeSystem")  ? 0x2
           : !strcmp(function, "HcsStartComputeSystem") ? 0x3
           : !strcmp(function, "HcsPauseComputeSystem") ? 0x4
           : !strcmp(function, "HcsResumeComputeSystem") ? 0x5
                                                         : 0;
}

static void follow_up(rule *r, const char *function, HRESULT hr, system_ *s)
{
    if (r->has_kill) {
        hold_system(s);
        after(r->kill_after, kill_now, s, r->kill_code, 0, NULL);
    }
    if (r->has_notes) {
        for (note *it = r->notes; it; it = it->next)
            notify_later(s, it->type, it->status, it->data, it->after);
    } else if (hr == PENDING && completion_of(function)) {
        notify_later(s, completion_of(function), 0, NULL, 5);
    } else if (hr == PENDING && !r->has_kill) {
        if (!r->has_hr)
            kill_all(s, !strcmp(function, "HcsShutdownComputeSystem") ? CONTROL_C : ABORTED);
        exit_later(s);
    }
}

/* the trace of calls */

typedef struct {
    const char *key;
    char *value; /* NULL: null */
} member;

typedef struct call {
    const char *function;
    int count, handles; /* open when it came */
    member members[12];
    struct call *next;
} call;

static call *calls, **calls_end = &calls;
static int call_count;
static __thread int client_now;
static char client_dead[256];

static void note_member(call *c, const char *key, const char *value)
{
    for (int i = 0; i < c->count; i++)
        if (!strcmp(c->members[i].key, key)) {
            free(c->members[i].value);
            c->members[i].value = copy_of(value);
            return;
        }
    if (c->count < 12)
        c->members[c->count++] = (member){key, copy_of(value)};
}

static void note_number(call *c, const char *key, DWORD value)
{
    char digits[16];
    snprintf(digits, sizeof digits, "%lu", value);
    note_member(c, key, digits);
}

static void note_handle(call *c, handle *h)
{
    if (!h)
        return;
    if (h->name[0] == 's') {
        note_member(c, "system", h->system->id);
        note_member(c, "systemHandle", h->name);
    } else {
        note_member(c, "system", h->process->system->id);
        note_member(c, "systemHandle", h->through);
        note_number(c, "process", h->process->pid);
        note_member(c, "processHandle", h->name);
    }
}

static void free_call(call *c)
{
    for (int i = 0; i < c->count; i++)
        free(c->members[i].value);
    free(c);
}

/* Every export begins and ends with these; between them the lock is held. */
static call *enter(const char *function)
{
    EnterCriticalSection(&lock);
    call *c = grown(NULL, sizeof *c);
    memset(c, 0, sizeof *c);
    c->function = function;
    c->handles = (int)live_handles;
    busy_calls++;
    touch();
    if (keep_calls) {
        *calls_end = c;
        calls_end = &c->next;
        call_count++;
    }
    return c;
}

static HRESULT leave(call *c, HRESULT hr)
{
    note_number(c, "hr", (DWORD)hr);
    if (!keep_calls)
        free_call(c);
    busy_calls--;
    touch();
    LeaveCriticalSection(&lock);
    return hr;
}

static WCHAR *given_text(const char *value)
{
    WCHAR *wide = utf16(value);
    size_t size = (wcslen(wide) + 1) * sizeof(WCHAR);
    WCHAR *made = CoTaskMemAlloc(size);
    memcpy(made, wide, size);
    free(wide);
    texts_out++;
    return made;
}

/* The HRESULT of a call by its rule, or the default one; hands out its result text. A delay lets others in. */
static HRESULT answer(call *c, rule *r, HRESULT otherwise, PWSTR *result)
{
    if (r->delay) {
        LeaveCriticalSection(&lock);
        Sleep(r->delay);
        EnterCriticalSection(&lock);
    }
    HRESULT hr = r->has_hr ? r->hr : otherwise;
    if (r->has_result && r->result) {
        note_member(c, "result", r->result);
        if (result)
            *result = given_text(r->result);
    }
    return hr;
}

static void give_properties(call *c, rule *r, const char *otherwise, PWSTR *properties)
{
    const char *told = r->has_properties ? r->properties : otherwise;
    note_member(c, "properties", told);
    if (told && properties)
        *properties = given_text(told);
}

static rule *ruled(const char *function, const char *value, const char *system)
{
    rule *found = rule_for(function, value, system);
    return found ? found : &no_rule;
}

static HRESULT bad_handle(call *c)
{
    failed("%s of a handle that is not open", c->function);
    return leave(c, E_BAD_HANDLE);
}

static int dead(void)
{
    return client_dead[client_now];
}

#define WRONG(hr) ((hr) < 0)

/* systems */

EXPORT HRESULT WINAPI HcsEnumerateComputeSystems(PCWSTR query, PWSTR *found, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsEnumerateComputeSystems");
    char *asked = utf8(query);
    note_member(c, "document", asked);
    HRESULT hr = answer(c, ruled(c->function, asked, NULL), 0, result);
    const char *owners = json_member(asked, "Owners");
    text out = {0};
    put(&out, "[");
    for (system_ *s = systems; s; s = s->next) {
        text quoted = {0};
        put(&quoted, "\"%s\"", s->owner ? s->owner : "");
        int wanted = !owners || strncmp(owners, "[", 1) || !strncmp(owners, "[]", 2);
        if (!wanted) { /* an owner's name needs no escapes */
            const char *hit = strstr(owners, quoted.at), *end = strchr(owners, ']');
            wanted = hit && end && hit < end;
        }
        if (wanted) {
            const char *id = json_member(s->document, "Name");
            (void)id;
            put(&out, "%s{\"Id\":\"%s\",\"Owner\":\"%s\",\"SystemType\":\"Container\",\"State\":\"%s\"}", out.size > 1 ? "," : "", s->id,
                s->owner ? s->owner : "", s->state);
        }
        free(quoted.at);
    }
    put(&out, "]");
    *found = given_text(out.at);
    free(out.at);
    free(asked);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsCreateComputeSystem(PCWSTR id, PCWSTR configuration, HANDLE identity, void **out, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsCreateComputeSystem");
    char *name = utf8(id), *document = utf8(configuration);
    note_member(c, "system", name);
    note_member(c, "document", document);
    rule *r = ruled(c->function, document, name);
    HRESULT hr = answer(c, r, PENDING, result);
    if (WRONG(hr) && hr != PENDING) {
        free(name), free(document);
        return leave(c, hr);
    }
    system_ *before = find_system(name);
    if (before && crew) {
        free(name), free(document);
        return leave(c, E_EXISTS);
    }
    if (before)
        out_of_table(before); /* the last of a name is the one that is found */
    system_ *s = grown(NULL, sizeof *s);
    memset(s, 0, sizeof *s);
    s->id = name;
    s->document = document;
    s->owner = json_string(json_member(document, "Owner"));
    s->name = json_string(json_member(document, "Name"));
    s->ends_with_handles = json_true(json_member(document, "TerminateOnLastHandleClosed"));
    s->state = "Created";
    s->untold_end = &s->untold;
    s->refs = s->in_table = 1;
    system_ **last = &systems;
    while (*last)
        last = &(*last)->next;
    *last = s;
    handle *h = new_handle('s', client_now, s, NULL);
    note_member(c, "systemHandle", h->name);
    *out = (void *)h->value;
    follow_up(r, c->function, hr, s);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsOpenComputeSystem(PCWSTR id, void **out, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsOpenComputeSystem");
    char *name = utf8(id);
    note_member(c, "system", name);
    rule *r = ruled(c->function, name, name);
    system_ *s = find_system(name);
    HRESULT hr = answer(c, r, s && strcmp(s->state, "Stopped") ? 0 : E_NO_SYSTEM, result);
    if (!WRONG(hr) && (s = find_system(name))) {
        handle *h = new_handle('s', client_now, s, NULL);
        note_member(c, "systemHandle", h->name);
        *out = (void *)h->value;
    }
    free(name);
    return leave(c, hr);
}

static HRESULT close_call(const char *function, void *value, char kind)
{
    call *c = enter(function);
    handle *h = find_handle(value, kind);
    if (!h)
        return bad_handle(c);
    note_handle(c, h);
    HRESULT hr = answer(c, ruled(function, "", h->system ? h->system->id : h->process->system->id), 0, NULL);
    if (!WRONG(hr) && (h = find_handle(value, kind)))
        close_handle(h);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsCloseComputeSystem(void *value)
{
    return dead() ? E_FAIL : close_call("HcsCloseComputeSystem", value, 's');
}

EXPORT HRESULT WINAPI HcsCloseProcess(void *value)
{
    return dead() ? E_FAIL : close_call("HcsCloseProcess", value, 'p');
}

static HRESULT default_of(const char *function, system_ *s)
{
    if (!strcmp(function, "HcsShutdownComputeSystem") || !strcmp(function, "HcsTerminateComputeSystem"))
        return s->exit_delivered || (crew && !strcmp(s->state, "Stopped")) ? E_STOPPED : PENDING;
    const char *wanted = !strcmp(function, "HcsStartComputeSystem")   ? "Created"
                         : !strcmp(function, "HcsPauseComputeSystem") ? "Running"
                                                                      : "Paused";
    return crew && strcmp(s->state, wanted) ? E_STATE : PENDING;
}

static HRESULT verb(const char *function, void *value, PCWSTR options, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter(function);
    char *words = utf8(options ? options : L"(null)");
    note_member(c, "options", words);
    handle *h = find_handle(value, 's');
    if (!h) {
        free(words);
        return bad_handle(c);
    }
    note_handle(c, h);
    system_ *s = h->system;
    hold_system(s);
    rule *r = ruled(function, words, s->id);
    HRESULT hr = answer(c, r, default_of(function, s), result);
    if (crew && r == &no_rule) {
        if (hr == PENDING)
            crew_verb(function, s);
    } else {
        follow_up(r, function, hr, s);
    }
    if (!WRONG(hr) || hr == PENDING)
        s->state = !strcmp(function, "HcsStartComputeSystem") || !strcmp(function, "HcsResumeComputeSystem") ? "Running"
                   : !strcmp(function, "HcsPauseComputeSystem")                                            ? "Paused"
                                                                                                            : s->state;
    drop_system(s);
    free(words);
    return leave(c, hr);
}

#define VERB(name)                                                            \
    EXPORT HRESULT WINAPI name(void *value, PCWSTR options, PWSTR *result)    \
    {                                                                         \
        return verb(#name, value, options, result);                           \
    }
VERB(HcsStartComputeSystem)
VERB(HcsShutdownComputeSystem)
VERB(HcsTerminateComputeSystem)
VERB(HcsPauseComputeSystem)
VERB(HcsResumeComputeSystem)

EXPORT HRESULT WINAPI HcsGetComputeSystemProperties(void *value, PCWSTR query, PWSTR *properties, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsGetComputeSystemProperties");
    char *asked = utf8(query ? query : L"");
    note_member(c, "document", asked);
    handle *h = find_handle(value, 's');
    if (!h) {
        free(asked);
        return bad_handle(c);
    }
    note_handle(c, h);
    system_ *s = h->system;
    hold_system(s);
    rule *r = ruled(c->function, asked, s->id);
    HRESULT hr = answer(c, r, crew && !strcmp(s->state, "Stopped") ? E_STATE : 0, result);
    if (!WRONG(hr)) {
        text out = {0};
        put(&out, "{\"Id\":\"%s\",\"SystemType\":\"Container\",\"Owner\":\"%s\",\"Name\":\"%s\"", s->id, s->owner ? s->owner : "",
            s->name ? s->name : "");
        if (crew)
            crew_properties(s, asked, &out);
        put(&out, "}");
        give_properties(c, r, out.at, properties);
        free(out.at);
    }
    drop_system(s);
    free(asked);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsModifyComputeSystem(void *value, PCWSTR request, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsModifyComputeSystem");
    char *asked = utf8(request);
    note_member(c, "document", asked);
    handle *h = find_handle(value, 's');
    note_handle(c, h);
    HRESULT hr = answer(c, ruled(c->function, asked, h ? h->system->id : NULL), h ? 0 : E_BAD_HANDLE, result);
    free(asked);
    return leave(c, hr);
}

/* registrations */

static HRESULT enrol(const char *function, void *value, char kind, callback call_back, void *context, void **out)
{
    if (dead())
        return E_FAIL;
    call *c = enter(function);
    handle *h = find_handle(value, kind);
    if (!h)
        return bad_handle(c);
    note_handle(c, h);
    HRESULT hr = answer(c, ruled(function, "", h->system ? h->system->id : h->process->system->id), 0, NULL);
    if (WRONG(hr))
        return leave(c, hr);
    if (h->box)
        failed("%s has a callback already", h->name);
    handle *made = new_handle('c', client_now, h->system, h->process);
    made->on = h;
    h->box = new_box(call_back, context);
    note_member(c, "callback", made->name);
    *out = (void *)made->value;
    if (h->system) {
        note *it = h->system->untold;
        h->system->untold = NULL;
        h->system->untold_end = &h->system->untold;
        for (note *each = it; each; each = each->next)
            post_to(h->box, each->type, each->status, each->data, h->system);
        free_notes(it);
    } else {
        for (note *each = h->untold; each; each = each->next)
            post_to(h->box, each->type, each->status, NULL, NULL);
        free_notes(h->untold);
        h->untold = NULL;
    }
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsRegisterComputeSystemCallback(void *value, callback call_back, void *context, void **out)
{
    return enrol("HcsRegisterComputeSystemCallback", value, 's', call_back, context, out);
}

EXPORT HRESULT WINAPI HcsRegisterProcessCallback(void *value, callback call_back, void *context, void **out)
{
    return enrol("HcsRegisterProcessCallback", value, 'p', call_back, context, out);
}

static HRESULT unenrol(const char *function, void *value)
{
    if (dead())
        return E_FAIL;
    call *c = enter(function);
    handle *h = find_handle(value, 'c');
    if (!h || !h->on)
        return bad_handle(c);
    note_handle(c, h->on);
    note_member(c, "callback", h->name);
    HRESULT hr = answer(c, ruled(function, "", h->system ? h->system->id : h->process->system->id), 0, NULL);
    if (!WRONG(hr) && (h = find_handle(value, 'c')))
        close_handle(h);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsUnregisterComputeSystemCallback(void *value)
{
    return unenrol("HcsUnregisterComputeSystemCallback", value);
}

EXPORT HRESULT WINAPI HcsUnregisterProcessCallback(void *value)
{
    return unenrol("HcsUnregisterProcessCallback", value);
}

/* processes */

static const char *const members[3] = {"CreateStdInPipe", "CreateStdOutPipe", "CreateStdErrPipe"};
static const char *const streams[3] = {"stdin", "stdout", "stderr"};

static HANDLE nowhere(void)
{
    SECURITY_ATTRIBUTES inherited = {sizeof inherited, NULL, TRUE};
    return CreateFileW(L"NUL", GENERIC_READ | GENERIC_WRITE, FILE_SHARE_READ | FILE_SHARE_WRITE, &inherited, OPEN_EXISTING, 0, NULL);
}

EXPORT HRESULT WINAPI HcsCreateProcess(void *value, PCWSTR parameters, process_information *information, void **out, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsCreateProcess");
    char *document = utf8(parameters);
    note_member(c, "document", document);
    handle *h = find_handle(value, 's');
    if (!h) {
        free(document);
        return bad_handle(c);
    }
    note_handle(c, h);
    char through[16];
    strcpy(through, h->name);
    system_ *s = h->system;
    hold_system(s);
    rule *r = ruled(c->function, document, s->id);
    HRESULT hr = answer(c, r, crew && strcmp(s->state, "Running") ? E_STATE : 0, result);
    if (WRONG(hr)) {
        drop_system(s);
        free(document);
        return leave(c, hr);
    }
    process *p = grown(NULL, sizeof *p);
    memset(p, 0, sizeof *p);
    p->refs = 1;
    p->system = s; /* with our hold */
    p->document = document;
    p->code = 259;
    p->echo = r->echo;
    HANDLE theirs[3] = {0}, ours[3] = {0};
    text made = {0};
    put_bytes(&made, "", 0);
    for (int i = 0; i < 3; i++) {
        if (!json_true(json_member(document, members[i])) || r->withhold & 1 << i) {
            if (crew)
                ours[i] = nowhere();
            continue;
        }
        if (!new_pipe(i, crew, &theirs[i], &ours[i]))
            failed("no pipe could be made: %lu", GetLastError());
        put(&made, "%s%s", made.size ? "," : "", streams[i]);
    }
    note_member(c, "pipes", made.at);
    free(made.at);
    if (crew) {
        if ((hr = start_child(p, ours))) {
            for (int i = 0; i < 3; i++)
                if (theirs[i])
                    CloseHandle(theirs[i]);
            drop_process(p);
            return leave(c, hr);
        }
    } else {
        p->pid = r->has_pid ? r->pid : next_pid;
        if (!r->has_pid)
            next_pid += 4;
        for (int i = 0; i < 3; i++)
            if (ours[i])
                attach(p, i, ours[i]);
    }
    memset(information, 0, sizeof *information);
    information->process_id = p->pid;
    for (int i = 0; i < 3; i++) {
        if (theirs[i] && r->invalid & 1 << i) {
            CloseHandle(theirs[i]);
            theirs[i] = INVALID_PIPE;
        }
        information->std[i] = theirs[i];
    }
    process **last = &s->processes;
    while (*last)
        last = &(*last)->next;
    *last = p;
    if (keep_calls) {
        struct known *each = grown(NULL, sizeof *each);
        *each = (struct known){p, known};
        known = each;
        hold_process(p);
    }
    handle *it = new_handle('p', client_now, NULL, p);
    strcpy(it->through, through);
    note_number(c, "process", p->pid);
    note_member(c, "processHandle", it->name);
    *out = (void *)it->value;
    for (int i = 0; i < 2; i++) {
        pipe_end *end = p->ends[i + 1];
        for (int times = 0; end && r->out[i] && times < (i ? 1 : r->repeat); times++)
            pipe_write(end, r->out[i], r->out_size[i]);
        if (end && r->close_output)
            pipe_end_output(end);
    }
    if (r->has_exit) {
        if (r->exit_on_close)
            p->on_close = r;
        else
            process_exit_later(p, r->exit_code, r->exit_status, r->exit_after);
    }
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsOpenProcess(void *value, DWORD pid, void **out, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsOpenProcess");
    handle *h = find_handle(value, 's');
    note_handle(c, h);
    note_number(c, "process", pid);
    char digits[16];
    snprintf(digits, sizeof digits, "%lu", pid);
    process *p = h ? h->system->processes : NULL;
    while (p && p->pid != pid)
        p = p->next;
    if (p)
        hold_process(p);
    HRESULT hr = answer(c, ruled(c->function, digits, h ? h->system->id : NULL), p ? 0 : E_NO_PROCESS, result);
    if (p && !WRONG(hr)) {
        handle *it = new_handle('p', client_now, NULL, p);
        strcpy(it->through, h->name);
        note_member(c, "processHandle", it->name);
        *out = (void *)it->value;
    }
    if (p)
        drop_process(p);
    return leave(c, hr);
}

/* The beginning of a call that is about one process: its rule is matched with a text, or else with the pid. The
 * process is held until `process_called`. */
static HRESULT process_call(call *c, void *value, PCWSTR words, PWSTR *result, process **out, rule **used)
{
    *out = NULL;
    *used = &no_rule;
    handle *h = find_handle(value, 'p');
    if (!h) {
        failed("%s of a handle that is not open", c->function);
        return E_BAD_HANDLE;
    }
    note_handle(c, h);
    process *p = h->process;
    hold_process(p);
    char digits[16], *asked = utf8(words);
    snprintf(digits, sizeof digits, "%lu", p->pid);
    if (asked)
        note_member(c, "document", asked);
    *used = ruled(c->function, asked ? asked : digits, p->system->id);
    *out = p;
    free(asked);
    return answer(c, *used, 0, result);
}

static HRESULT process_called(call *c, process *p, HRESULT hr)
{
    if (p)
        drop_process(p);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI HcsTerminateProcess(void *value, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsTerminateProcess");
    process *p;
    rule *r;
    HRESULT hr = process_call(c, value, NULL, result, &p, &r);
    if (p && !WRONG(hr)) {
        if (crew) {
            if (!p->exited)
                crew_kill(p);
        } else {
            process_exit_later(p, r->has_code ? r->code : 1, 0, r->has_after ? r->after : 40);
        }
    }
    return process_called(c, p, hr);
}

EXPORT HRESULT WINAPI HcsSignalProcess(void *value, PCWSTR options, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsSignalProcess");
    process *p;
    rule *r;
    HRESULT hr = process_call(c, value, options, result, &p, &r);
    if (p && !WRONG(hr)) {
        char *asked = utf8(options), *word = json_string(json_member(asked, "Signal"));
        if (!crew)
            process_exit(p, CONTROL_C, 0, 0);
        else if (!p->exited)
            crew_control(p, word ? word : "");
        free(word);
        free(asked);
    }
    return process_called(c, p, hr);
}

EXPORT HRESULT WINAPI HcsGetProcessProperties(void *value, PWSTR *properties, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsGetProcessProperties");
    process *p;
    rule *r;
    HRESULT hr = process_call(c, value, NULL, result, &p, &r);
    if (p && !WRONG(hr)) {
        text out = {0};
        put(&out, "{\"ProcessId\":%lu,\"Exited\":%s,\"ExitCode\":%lu,\"LastWaitResult\":0}", p->pid, p->exited ? "true" : "false", p->code);
        give_properties(c, r, out.at, properties);
        free(out.at);
    }
    return process_called(c, p, hr);
}

EXPORT HRESULT WINAPI HcsModifyProcess(void *value, PCWSTR settings, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsModifyProcess");
    process *p;
    rule *r;
    HRESULT hr = process_call(c, value, settings, result, &p, &r);
    if (p && !WRONG(hr)) {
        char *asked = utf8(settings), *operation = json_string(json_member(asked, "Operation"));
        if (operation && !strcmp(operation, "CloseHandle") && p->on_close)
            process_exit_later(p, p->on_close->exit_code, p->on_close->exit_status, p->on_close->exit_after);
        if (crew && operation && !strcmp(operation, "ConsoleSize") && !json_true(json_member(p->document, "EmulateConsole")))
            hr = E_STATE;
        free(operation);
        free(asked);
    }
    return process_called(c, p, hr);
}

/* the service, layers */

EXPORT HRESULT WINAPI HcsGetServiceProperties(PCWSTR query, PWSTR *properties, PWSTR *result)
{
    if (dead())
        return E_FAIL;
    call *c = enter("HcsGetServiceProperties");
    char *asked = utf8(query);
    note_member(c, "document", asked);
    rule *r = ruled(c->function, asked, NULL);
    HRESULT hr = answer(c, r, 0, result);
    if (!WRONG(hr))
        give_properties(c, r, "{\"Properties\":[{\"SupportedSchemaVersions\":[{\"Major\":1,\"Minor\":0},{\"Major\":2,\"Minor\":1}]}]}", properties);
    free(asked);
    return leave(c, hr);
}

static void guid_of(const char *name, GUID *out)
{
    const char *given = scripted_guid(name);
    unsigned d[11];
    if (given && sscanf(given, "%8x-%4x-%4x-%2x%2x-%2x%2x%2x%2x%2x%2x", d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7, d + 8, d + 9, d + 10) == 11) {
        *out = (GUID){d[0], (WORD)d[1], (WORD)d[2]};
        for (int i = 0; i < 8; i++)
            out->Data4[i] = (BYTE)d[3 + i];
    } else {
        version_five(name, out);
    }
}

EXPORT HRESULT WINAPI NameToGuid(PCWSTR name, GUID *out)
{
    if (dead())
        return E_FAIL;
    call *c = enter("NameToGuid");
    char *asked = utf8(name);
    note_member(c, "name", asked);
    HRESULT hr = answer(c, ruled(c->function, asked, NULL), 0, NULL);
    if (!WRONG(hr)) {
        guid_of(asked, out);
        char shown[40];
        snprintf(shown, sizeof shown, "%08lx-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", out->Data1, out->Data2, out->Data3, out->Data4[0], out->Data4[1],
                 out->Data4[2], out->Data4[3], out->Data4[4], out->Data4[5], out->Data4[6], out->Data4[7]);
        note_member(c, "guid", shown);
    }
    free(asked);
    return leave(c, hr);
}

enum { MADE = 1, ACTIVE = 2, PREPARED = 4 };

static struct layer {
    char *path;
    int have;
    struct layer *next;
} *layers;
static int preparing;

static struct layer *find_layer(const char *path)
{
    struct layer *it = layers;
    while (it && strcmp(it->path, path))
        it = it->next;
    return it;
}

/* What the layer functions are given, by the layout of Windows. */
typedef struct {
    int flavour;
    PCWSTR home;
} driver_info;
typedef struct {
    GUID id;
    ULONG flags;
    PCWSTR path;
} descriptor;
typedef struct {
    const descriptor *at;
    size_t count;
} chain;

static void check_driver(const char *function, const driver_info *info)
{
    if (!info || info->flavour != 1 || !info->home || *info->home)
        failed("%s: not the filter driver with full paths", function);
}

/* The paths of parent layers, with `|` between them; each must bear the id of its folder's name. */
static void note_chain(call *c, const chain *parents)
{
    text paths = {0};
    for (size_t i = 0; i < parents->count; i++) {
        const descriptor *each = parents->at + i;
        char *path = utf8(each->path);
        const char *name = strrchr(path, '\\');
        GUID id;
        guid_of(name ? name + 1 : path, &id);
        if (memcmp(&id, &each->id, sizeof id) || each->flags)
            failed("%s: %s has another id, or flags", c->function, path);
        put(&paths, "%s%s", i ? "|" : "", path);
        free(path);
    }
    put_bytes(&paths, "", 0);
    note_member(c, "parents", paths.at);
    free(paths.at);
}

static HRESULT layer_call(const char *function, void *info, PCWSTR path, const chain *parents, const ULONGLONG *size, int needs, int adds,
                          int takes)
{
    if (dead())
        return E_FAIL;
    call *c = enter(function);
    char *name = utf8(path);
    note_member(c, "name", name);
    check_driver(function, info);
    if (parents)
        note_chain(c, parents);
    if (size) {
        char digits[20];
        snprintf(digits, sizeof digits, "%08lx%08lx", (DWORD)(*size >> 32), (DWORD)*size);
        note_member(c, "size", digits);
    }
    HRESULT hr = answer(c, ruled(function, name, NULL), 0, NULL);
    if (!WRONG(hr)) {
        struct layer *it = find_layer(name);
        if (adds == MADE && !it) {
            it = grown(NULL, sizeof *it);
            *it = (struct layer){copy_of(name), 0, layers};
            layers = it;
        }
        if (!it || (it->have & needs) != needs) {
            hr = E_NO_FILE;
        } else {
            it->have = (it->have | adds) & ~takes;
            if (takes & MADE) {
                if (it->have & (ACTIVE | PREPARED))
                    failed("%s was destroyed while it was in use", name);
                struct layer **place = &layers;
                while (*place != it)
                    place = &(*place)->next;
                *place = it->next;
                free(it->path);
                free(it);
            }
        }
    }
    free(name);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI CreateSandboxLayer(void *info, PCWSTR path, PCWSTR parent, void *parents, size_t count)
{
    return layer_call("CreateSandboxLayer", info, path, &(chain){parents, count}, NULL, 0, MADE, 0);
}

EXPORT HRESULT WINAPI ExpandSandboxSize(void *info, PCWSTR path, ULONGLONG size)
{
    return layer_call("ExpandSandboxSize", info, path, NULL, &size, MADE, 0, 0);
}

EXPORT HRESULT WINAPI ActivateLayer(void *info, PCWSTR path)
{
    return layer_call("ActivateLayer", info, path, NULL, NULL, 0, ACTIVE, 0);
}

EXPORT HRESULT WINAPI DeactivateLayer(void *info, PCWSTR path)
{
    return layer_call("DeactivateLayer", info, path, NULL, NULL, ACTIVE, 0, ACTIVE);
}

EXPORT HRESULT WINAPI PrepareLayer(void *info, PCWSTR path, void *parents, size_t count)
{
    EnterCriticalSection(&lock);
    if (++preparing > 1)
        failed("two layers are prepared at once");
    LeaveCriticalSection(&lock);
    Sleep(2);
    HRESULT hr = layer_call("PrepareLayer", info, path, &(chain){parents, count}, NULL, ACTIVE, PREPARED, 0);
    EnterCriticalSection(&lock);
    preparing--;
    LeaveCriticalSection(&lock);
    return hr;
}

EXPORT HRESULT WINAPI UnprepareLayer(void *info, PCWSTR path)
{
    return layer_call("UnprepareLayer", info, path, NULL, NULL, PREPARED, 0, PREPARED);
}

EXPORT HRESULT WINAPI DestroyLayer(void *info, PCWSTR path)
{
    return layer_call("DestroyLayer", info, path, NULL, NULL, 0, 0, MADE);
}

EXPORT HRESULT WINAPI LayerExists(void *info, PCWSTR path, DWORD *out)
{
    if (dead())
        return E_FAIL;
    call *c = enter("LayerExists");
    char *name = utf8(path);
    note_member(c, "name", name);
    HRESULT hr = answer(c, ruled(c->function, name, NULL), 0, NULL);
    check_driver(c->function, info);
    *out = find_layer(name) != NULL;
    free(name);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI GetLayerMountPath(void *info, PCWSTR path, size_t *length, PWSTR buffer)
{
    if (dead())
        return E_FAIL;
    call *c = enter("GetLayerMountPath");
    char *name = utf8(path);
    note_member(c, "name", name);
    HRESULT hr = answer(c, ruled(c->function, name, NULL), 0, NULL);
    if (!WRONG(hr)) {
        GUID g;
        WCHAR volume[64];
        version_five(name, &g);
        swprintf(volume, 64, L"\\\\?\\Volume{%08lx-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x}\\", g.Data1, g.Data2, g.Data3, g.Data4[0], g.Data4[1],
                 g.Data4[2], g.Data4[3], g.Data4[4], g.Data4[5], g.Data4[6], g.Data4[7]);
        check_driver(c->function, info);
        if (buffer && *length <= wcslen(volume))
            failed("GetLayerMountPath: room for %lu characters alone", (DWORD)*length);
        else if (buffer)
            wcscpy(buffer, volume);
        *length = wcslen(volume) + 1;
    }
    free(name);
    return leave(c, hr);
}

static HRESULT named_call(const char *function, PCWSTR path)
{
    if (dead())
        return E_FAIL;
    call *c = enter(function);
    char *name = utf8(path);
    note_member(c, "name", name);
    HRESULT hr = answer(c, ruled(function, name, NULL), 0, NULL);
    free(name);
    return leave(c, hr);
}

EXPORT HRESULT WINAPI ProcessBaseImage(PCWSTR path)
{
    return named_call("ProcessBaseImage", path);
}

EXPORT HRESULT WINAPI ProcessUtilityImage(PCWSTR path)
{
    return named_call("ProcessUtilityImage", path);
}

EXPORT HRESULT WINAPI GrantVmAccess(PCWSTR vm, PCWSTR path)
{
    return named_call("GrantVmAccess", path);
}

/* What a test asks of the double. Texts are UTF-8; those that are answers are copied into the caller's buffer as far
 * as there is room, and their whole size is returned. */

static size_t copied(text *out, char *buffer, size_t room)
{
    put_bytes(out, "", 0);
    size_t size = out->size;
    if (buffer && room > size)
        memcpy(buffer, out->at, size + 1);
    free(out->at);
    return size;
}

/* A new machine, with this script; the old one's processes are gone. */
EXPORT void WINAPI DoubleReset(const char *script)
{
    static int begun;
    EnterCriticalSection(&lock);
    if (!begun) {
        begun = 1;
        start_post();
    }
    forget_later();
    for (system_ *s = systems; s; s = s->next)
        if (s->job)
            TerminateJobObject(s->job, KILLED);
    for (size_t i = 0; i < table_size; i++) /* registrations first */
        if (table[i] && table[i]->on)
            close_handle(table[i]);
    keep_calls = 1;
    for (size_t i = 0; i < table_size; i++)
        if (table[i]) {
            table[i]->system ? (void)(table[i]->system->ends_with_handles = 0) : (void)0;
            close_handle(table[i]);
        }
    table_size = 0;
    while (systems)
        out_of_table(systems);
    close_pipes();
    while (known) {
        struct known *each = known;
        known = each->next;
        drop_process(each->it);
        free(each);
    }
    while (calls) {
        call *c = calls;
        calls = c->next;
        free_call(c);
    }
    calls_end = &calls;
    call_count = 0;
    while (layers) {
        struct layer *it = layers;
        layers = it->next;
        free(it->path);
        free(it);
    }
    memset(named, 0, sizeof named);
    memset(client_dead, 0, sizeof client_dead);
    next_pid = 1004;
    texts_out = 0;
    free(errors.at);
    memset(&errors, 0, sizeof errors);
    forget_script();
    char *mine = copy_of(script ? script : "");
    read_script(mine);
    free(mine);
    touch();
    LeaveCriticalSection(&lock);
}

/* Which client the calls of this thread come from, from now on: a number below 256. */
EXPORT void WINAPI DoubleClient(int client)
{
    client_now = client;
}

/* The program is killed: the kernel closes its handles; it is called no more, and its calls fail. */
EXPORT void WINAPI DoubleDie(int client)
{
    EnterCriticalSection(&lock);
    client_dead[client] = 1;
    for (size_t i = 0; i < table_size; i++)
        if (table[i] && table[i]->on && table[i]->client == client)
            close_handle(table[i]);
    for (size_t i = 0; i < table_size; i++)
        if (table[i] && table[i]->client == client)
            close_handle(table[i]);
    touch();
    LeaveCriticalSection(&lock);
}

/* The script is over, and everything ends. */
EXPORT void WINAPI DoubleFinish(void)
{
    EnterCriticalSection(&lock);
    forget_rules();
    for (system_ *s = systems, *next; s; s = next) {
        next = s->next;
        hold_system(s);
        kill_all(s, ABORTED);
        if (!s->exit_delivered)
            notify_system(s, SYSTEM_EXITED, 0, NULL);
        drop_system(s);
    }
    LeaveCriticalSection(&lock);
}

/* Milliseconds since anything happened, 0 while something is still to come. */
EXPORT DWORD WINAPI DoubleQuiet(void)
{
    EnterCriticalSection(&lock);
    int busy = clock_pending() || post_busy() || busy_calls || pipes_busy();
    DWORD quiet = busy ? 0 : (DWORD)(GetTickCount64() - last_touched);
    LeaveCriticalSection(&lock);
    return quiet;
}

EXPORT int WINAPI DoubleCallCount(void)
{
    return call_count;
}

/* A line for each call from `first` on: its function, how many handles were open when it came, its members. */
EXPORT size_t WINAPI DoubleCalls(int first, char *buffer, size_t room)
{
    text out = {0};
    EnterCriticalSection(&lock);
    for (call *c = calls; c; c = c->next) {
        if (first-- > 0)
            continue;
        put(&out, "%s\t%d", c->function, c->handles);
        for (int i = 0; i < c->count; i++) {
            put(&out, "\t%s%s", c->members[i].key, c->members[i].value ? "=" : "");
            if (c->members[i].value)
                put_escaped(&out, c->members[i].value, strlen(c->members[i].value));
        }
        put(&out, "\n");
    }
    LeaveCriticalSection(&lock);
    return copied(&out, buffer, room);
}

/* Names of the handles that are open, with blanks between them. */
EXPORT size_t WINAPI DoubleOpen(char *buffer, size_t room)
{
    text out = {0};
    EnterCriticalSection(&lock);
    for (size_t i = 0; i < table_size; i++)
        if (table[i])
            put(&out, "%s ", table[i]->name);
    LeaveCriticalSection(&lock);
    return copied(&out, buffer, room);
}

static void put_given(text *out, process *p)
{
    if (p->input_closed) {
        put(out, "%lu\t", p->pid);
        put_escaped(out, p->given.at ? p->given.at : "", p->given.size);
        put(out, "\n");
    }
}

/* A line for each process whose input pipe was closed: its pid, what it was given. */
EXPORT size_t WINAPI DoubleGiven(char *buffer, size_t room)
{
    text out = {0};
    EnterCriticalSection(&lock);
    for (struct known *each = known; each; each = each->next)
        put_given(&out, each->it);
    LeaveCriticalSection(&lock);
    return copied(&out, buffer, room);
}

/* What went wrong in the use of the service: there must be nothing. */
EXPORT size_t WINAPI DoubleErrors(char *buffer, size_t room)
{
    text out = {0};
    EnterCriticalSection(&lock);
    put_bytes(&out, errors.at ? errors.at : "", errors.size);
    LeaveCriticalSection(&lock);
    return copied(&out, buffer, room);
}

/* Gives back a text, and counts it; CoTaskMemFree does the first alone. */
EXPORT void WINAPI DoubleFree(void *memory)
{
    EnterCriticalSection(&lock);
    texts_out -= memory != NULL;
    LeaveCriticalSection(&lock);
    CoTaskMemFree(memory);
}

EXPORT int WINAPI DoubleTextsOut(void)
{
    return texts_out;
}

EXPORT int WINAPI DoubleProcessExit(DWORD pid, DWORD code, HRESULT status, int silent)
{
    EnterCriticalSection(&lock);
    process *p = find_process(pid);
    if (p)
        process_exit(p, code, status, silent);
    LeaveCriticalSection(&lock);
    return p != NULL;
}

EXPORT int WINAPI DoubleNotifyProcess(DWORD pid, DWORD type, HRESULT status)
{
    EnterCriticalSection(&lock);
    process *p = find_process(pid);
    if (p)
        notify_process(p, type, status);
    LeaveCriticalSection(&lock);
    return p != NULL;
}

/* `id` NULL: all systems, and all that have registered for a process, too: the service is lost. */
EXPORT int WINAPI DoubleNotifySystem(const char *id, DWORD type, HRESULT status)
{
    EnterCriticalSection(&lock);
    system_ *s = id ? find_system(id) : NULL;
    if (s)
        notify_system(s, type, status, NULL);
    for (size_t i = 0; !id && i < table_size; i++)
        if (table[i] && table[i]->box)
            post_to(table[i]->box, type, status, NULL, NULL);
    LeaveCriticalSection(&lock);
    return s != NULL || !id;
}

EXPORT int WINAPI DoubleWrite(DWORD pid, int stream, const char *data, size_t size)
{
    EnterCriticalSection(&lock);
    process *p = find_process(pid);
    touch();
    if (p && p->ends[stream])
        pipe_write(p->ends[stream], data, size);
    LeaveCriticalSection(&lock);
    return p != NULL;
}

EXPORT int WINAPI DoubleEnd(DWORD pid, int stream)
{
    EnterCriticalSection(&lock);
    process *p = find_process(pid);
    touch();
    if (p && p->ends[stream])
        pipe_end_output(p->ends[stream]);
    LeaveCriticalSection(&lock);
    return p != NULL;
}

/* A program that loads the DLL with no test around it is scripted by a file: VMCOMPUTE_DOUBLE names it. */
static void script_by_file(void)
{
    WCHAR path[MAX_PATH];
    DWORD length = GetEnvironmentVariableW(L"VMCOMPUTE_DOUBLE", path, MAX_PATH);
    if (!length || length >= MAX_PATH)
        return;
    HANDLE file = CreateFileW(path, GENERIC_READ, FILE_SHARE_READ, NULL, OPEN_EXISTING, 0, NULL);
    if (file == INVALID_HANDLE_VALUE)
        return;
    DWORD size = GetFileSize(file, NULL), got = 0;
    char *script = grown(NULL, size + 1);
    ReadFile(file, script, size, &got, NULL);
    script[got] = 0;
    CloseHandle(file);
    DoubleReset(script);
    free(script);
}

BOOL WINAPI DllMain(HINSTANCE instance, DWORD reason, void *reserved)
{
    if (reason == DLL_PROCESS_ATTACH) {
        InitializeCriticalSection(&lock);
        script_by_file(); /* its threads begin when this has returned */
    }
    return TRUE;
}
