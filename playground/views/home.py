"""The first page: a start without a question while nothing runs, an overview once something does."""

from django.http import HttpResponse
from django.shortcuts import render

from playground.views.request import Request


def page(request: Request) -> HttpResponse:
    return render(request, "playground/home.html")
