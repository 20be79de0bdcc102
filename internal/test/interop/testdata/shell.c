/* A shell in a stack of libvdestack.
 * usage: shell LOCATOR */
#include <stdio.h>
#include <vdestack.h>

int main(int argc, char *argv[])
{
	struct vdestack *stack;

	if (argc != 2)
		return 2;
	stack = vde_addstack(argv[1], NULL);
	if (stack == NULL) {
		perror("vde_addstack");
		return 1;
	}
	return vde_stackcmd(stack, "/bin/sh");
}
