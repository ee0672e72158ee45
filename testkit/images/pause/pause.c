// The process that keeps a pod's namespaces: waits for SIGTERM, buries the dead that fall to it as process 1.
// With a port as argument it also says its host name to everyone who connects: a pod for the lab's own tests.
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) { (void)signal; _exit(0); }

static void bury(int signal) {
  (void)signal;
  while (waitpid(-1, 0, WNOHANG) > 0) {}
}

static int serve(int port) {
  char name[64] = "";
  int on = 1, one = socket(AF_INET, SOCK_STREAM, 0), peer;
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
  gethostname(name, sizeof name - 1);
  setsockopt(one, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(one, (struct sockaddr *)&any, sizeof any) || listen(one, 16)) return perror("pause"), 1;
  dprintf(1, "%s serves port %d\n", name, port);
  for (;;)
    if ((peer = accept(one, 0, 0)) >= 0) dprintf(peer, "%s\n", name), close(peer);
}

int main(int count, char **words) {
  signal(SIGTERM, end);
  signal(SIGINT, end);
  signal(SIGCHLD, bury);
  signal(SIGPIPE, SIG_IGN);
  if (count > 1) return serve(atoi(words[1]));
  for (;;) pause();
}
